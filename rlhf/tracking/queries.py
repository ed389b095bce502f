"""Runs and their tags and metrics, by MLflow's client."""

import math
from collections.abc import Sequence
from itertools import product

from mlflow.entities import Run, ViewType
from mlflow.utils.search_utils import SearchUtils

from rlhf.earlier_names import current_metric, current_section, current_tags, metric_names
from rlhf.tracking.client import TrackingError, client, experiment_id, retry_while_unavailable
from rlhf.tracking.models import registered_models
from rlhf.tracking.records import Condition, Input, RunRecord, is_finite, time_of
from rlhf.tracking.tags import FINGERPRINT_TAG, FLOW_RUN_TAG, KIND_TAG, STAGE_TAG

_GONE = "RESOURCE_DOES_NOT_EXIST"
_IDS_AT_ONCE = 500  # an answer has 1,000 runs at most


class ClientStore:
    """MLflow's client, which knows every kind of store. See `rlhf.tracking.records.RunStore`."""

    def search(self, conditions: Sequence[Condition], limit: int) -> list[RunRecord]:
        """The runs that meet all conditions, the newest first."""
        return [record_of(run) for run in self._page(conditions, limit, 0)]

    def count(self, conditions: Sequence[Condition]) -> int:
        """The number of runs that meet all conditions: MLflow does not say, so the end is looked for by halves."""
        beyond = 1
        while self._page(conditions, 1, beyond - 1):
            beyond *= 2
        least, most = beyond // 2, beyond - 1
        while least < most:
            middle = (least + most + 1) // 2
            least, most = (middle, most) if self._page(conditions, 1, middle - 1) else (least, middle - 1)
        return least

    def runs(self, run_ids: Sequence[str]) -> dict[str, RunRecord]:
        """The runs with these ids, by id; ids without a run are left out."""
        records: dict[str, RunRecord] = {}
        for start in range(0, len(run_ids), _IDS_AT_ONCE):
            listed = ", ".join(f"'{run_id}'" for run_id in run_ids[start : start + _IDS_AT_ONCE])
            records |= {run.info.run_id: record_of(run) for run in find(f"attributes.run_id IN ({listed})")}
        return records

    def deleted(self, prefix: str) -> list[str]:
        """Ids of deleted runs that begin so."""
        condition = f"attributes.run_id LIKE '{prefix}%'"
        runs = retry_while_unavailable(
            lambda: client().search_runs([experiment_id()], condition, run_view_type=ViewType.DELETED_ONLY)
        )
        return sorted(run.info.run_id for run in runs)

    def curves(self, run_id: str, names: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
        """Steps and finite values of metrics of a run, by rising step; without the metrics that it has not."""
        curves = {}
        for name in names:
            points = [
                point
                for recorded in metric_names(name)
                for point in retry_while_unavailable(lambda key=recorded: client().get_metric_history(run_id, key))  # type: ignore[misc]
            ]
            curve = [(point.step, point.value) for point in points if is_finite(point.value)]
            if curve:
                curves[name] = sorted(curve, key=lambda point: point[0])
        return curves

    def policies(self) -> list[str]:
        """The registered models that policies are versions of."""
        return [model.name for model in registered_models()]

    def aliases(self) -> dict[str, str]:
        """Versions of those models, by `MODEL@ALIAS`."""
        return {
            f"{model.name}@{alias}": f"{model.name}/{version}"
            for model in registered_models()
            for alias, version in model.aliases.items()
        }

    def version_run(self, version: str) -> str | None:
        """The run that made a version; None where there is no such version."""
        try:
            return str(retry_while_unavailable(lambda: client().get_model_version(*version.split("/"))).run_id or "")
        except TrackingError as error:
            if getattr(error.__cause__, "error_code", "") == _GONE:
                return None
            raise

    @staticmethod
    def _page(conditions: Sequence[Condition], limit: int, offset: int) -> list[Run]:
        variants = list(product(*(condition.recorded for condition in conditions)))
        if len(variants) == 1:
            return _search(variants[0], limit, offset)
        # MLflow's filters have no `or`.
        runs = {run.info.run_id: run for variant in variants for run in _search(variant, limit + offset, 0)}
        newest_first = sorted(runs.values(), key=lambda run: (-run.info.start_time, run.info.run_id))
        return newest_first[offset : offset + limit]


def _search(conditions: Sequence[Condition], limit: int, offset: int) -> list[Run]:
    conditions_as_text = " and ".join(condition.as_filter for condition in conditions)
    token = SearchUtils.create_page_token(offset) if offset else None  # type: ignore[no-untyped-call]
    runs = retry_while_unavailable(
        lambda: client().search_runs(
            [experiment_id()], conditions_as_text, max_results=limit, order_by=["start_time DESC"], page_token=token
        )
    )
    return list(runs)


def record_of(run: Run) -> RunRecord:
    """A run as MLflow's client has it."""
    datasets = [entry.dataset for entry in run.inputs.dataset_inputs] if run.inputs else []
    metrics = run.data.metrics
    return RunRecord(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        status=run.info.status,
        started=time_of(run.info.start_time),
        ended=time_of(run.info.end_time) if run.info.end_time else None,
        artifact_uri=run.info.artifact_uri,
        tags=current_tags(run.data.tags),
        params={current_section(name): value for name, value in run.data.params.items()},
        metrics={current_metric(name): value for name, value in metrics.items() if is_finite(value)},
        not_finite=frozenset(current_metric(name) for name, value in metrics.items() if not is_finite(value)),
        inputs={dataset.name: Input.from_dataset(dataset.source, dataset.digest) for dataset in datasets},
    )


def pipeline_of(flow_run_id: str) -> RunRecord | None:
    """The pipeline run of a flow run, wherever it ran; None where there is none."""
    return next(map(record_of, find(f"tags.`{FLOW_RUN_TAG}` = '{flow_run_id}'")), None)


def find(condition: str) -> list[Run]:
    """Runs that meet a condition, the newest first."""
    runs = retry_while_unavailable(
        lambda: client().search_runs([experiment_id()], condition, order_by=["start_time DESC"])
    )
    return list(runs)


def finished_stages(stage: str, fingerprint: str) -> list[dict[str, str]]:
    """The tags of the finished runs of a stage with this fingerprint, the newest first."""
    runs = find(
        f"tags.`{STAGE_TAG}` = '{stage}' and tags.`{FINGERPRINT_TAG}` = '{fingerprint}'"
        " and attributes.status = 'FINISHED'"
    )
    return [current_tags(run.data.tags) for run in runs]


def tags_of(run_id: str) -> dict[str, str]:
    """The tags of a run; none where there is no such run."""
    runs = find(f"attributes.run_id = '{run_id}'") if run_id.isalnum() else []
    return current_tags(runs[0].data.tags) if runs else {}


def pipeline_runs(tag: str, value: str) -> dict[str, dict[str, str]]:
    """The pipeline runs that bear a tag, the newest first: their tags by run id."""
    runs = find(f"tags.`{tag}` = '{value}' and tags.`{KIND_TAG}` = 'pipeline'")
    return {run.info.run_id: current_tags(run.data.tags) for run in runs}


def metrics_of(run_id: str) -> dict[str, float]:
    """The last finite value of each metric of a run."""
    metrics: dict[str, float] = retry_while_unavailable(lambda: client().get_run(run_id)).data.metrics
    return {current_metric(name): value for name, value in metrics.items() if math.isfinite(value)}

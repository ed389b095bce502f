"""What runs say of themselves."""

import math

from mlflow.entities import Run

from rlhf.tracking.store import client, experiment_id, patiently


def find(condition: str) -> list[Run]:
    """Runs that meet a condition, the newest first."""
    runs = patiently(lambda: client().search_runs([experiment_id()], condition, order_by=["start_time DESC"]))
    return list(runs)


def finished_stages(stage: str, fingerprint: str) -> list[dict[str, str]]:
    """The tags of the finished runs of a stage with this fingerprint, the newest first."""
    runs = find(
        f"tags.`rlhf.stage` = '{stage}' and tags.`rlhf.fingerprint` = '{fingerprint}'"
        " and attributes.status = 'FINISHED'"
    )
    return [run.data.tags for run in runs]


def tags_of(run_id: str) -> dict[str, str]:
    """The tags of a run; none where there is no such run."""
    runs = find(f"attributes.run_id = '{run_id}'") if run_id.isalnum() else []
    return runs[0].data.tags if runs else {}


def pipeline_runs(tag: str, value: str) -> dict[str, dict[str, str]]:
    """The pipeline runs that bear a tag, the newest first: their tags by run id."""
    runs = find(f"tags.`{tag}` = '{value}' and tags.`rlhf.kind` = 'pipeline'")
    return {run.info.run_id: run.data.tags for run in runs}


def metrics_of(run_id: str) -> dict[str, float]:
    """The last finite value of each metric of a run."""
    metrics: dict[str, float] = patiently(lambda: client().get_run(run_id)).data.metrics
    return {name: value for name, value in metrics.items() if math.isfinite(value)}

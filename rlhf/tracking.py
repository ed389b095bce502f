"""MLflow, and the only module that imports it. Runs are addressed by id; nothing depends on a thread's active run.

A pipeline run is a parent run, every attempt at a stage a child of it. What stages leave is `rlhf.artifacts`' business.
"""

import contextlib
import functools
import json
import logging
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import requests
from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from rlhf.errors import RLHFError
from rlhf.metrics import describe
from rlhf.project import artifacts_folder, tracking_database, unsent_folder
from rlhf.references import Reference
from rlhf.shared_view import KEY, TAG, shared_view
from rlhf.spool import BATCH_SIZE, NotSentError, Point, Spool, read_points, write_points

logger = logging.getLogger(__name__)
EXPERIMENT = "rlhf"
REGISTERED_MODEL = "rlhf-policy"
OUTPUT_TAG = "rlhf.output"
ALARMS_TAG = "alarms"
PATIENCE_SECONDS = 120.0
_REACH_SECONDS = (3.0, 5.0)  # to connect, and to answer
FLOW_RUN_TAG = "prefect.flow_run_id"
Status = Literal["FINISHED", "FAILED", "KILLED"]
AnyReference = TypeVar("AnyReference", bound=Reference)
Result = TypeVar("Result")

_FINAL = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "PERMISSION_DENIED")
_LONGEST_PARAM = 500
_LONGEST_TAG = 5000
_DEFAULT_UI = "http://127.0.0.1:5000"
_MOVE = (
    "UPDATE experiments SET artifact_location = :now || substr(artifact_location, :start)"
    " WHERE substr(artifact_location, 1, :length) = :before",
    "UPDATE runs SET artifact_uri = :now || substr(artifact_uri, :start)"
    " WHERE substr(artifact_uri, 1, :length) = :before",
    "UPDATE model_versions SET storage_location = :now || substr(storage_location, :start)"
    " WHERE substr(storage_location, 1, :length) = :before",
)


class TrackingError(RLHFError):
    """The tracking store did not answer, or refused."""


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else the SQLite file of the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _own_store()


def run_url(run_id: str) -> str:
    """Where a run is seen in MLflow's UI. Without the parameter the UI shows a page about traces."""
    base = tracking_uri().rstrip("/") if _is_server(tracking_uri()) else _DEFAULT_UI
    return f"{base}/#/experiments/{_experiment_id()}/runs/{run_id}?workflowType=machine_learning"


def prepare_store() -> None:
    """Make the project's own store and the experiment, so that a server over it keeps artifacts where runs do."""
    _experiment_of(_own_store())


def check_reachable() -> None:
    """Tell within seconds, rather than after the first stage, that a tracking server is not there.

    Raises:
        TrackingError: it does not answer.
    """
    if not _is_server(tracking_uri()):
        return
    try:
        requests.get(f"{tracking_uri().rstrip('/')}/health", timeout=_REACH_SECONDS)
    except requests.RequestException as error:
        raise TrackingError(_explain(error)) from error


def runs_url() -> str:
    """Where the table of pipeline runs is seen in MLflow's UI."""
    base = tracking_uri().rstrip("/") if _is_server(tracking_uri()) else _DEFAULT_UI
    view = f"workflowType=machine_learning&viewStateShareKey={KEY}"
    return f"{base}/#/experiments/{_experiment_id()}/runs?{view}"


def open_pipeline(name: str, flow_run_id: str | None, settings: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """Create the parent run of a pipeline, or go on in it where the same flow run is retried.

    Args:
        name: name of the run.
        flow_run_id: Prefect's id, by which a retry finds its parent again.
        settings: the resolved configuration, nested. It becomes `config.yaml` and flat parameters.
        tags: what is known of the run beside its settings.

    Returns:
        The run's id.

    Raises:
        TrackingError: the tracking store cannot be reached.
    """
    with _translated():
        _experiment_id()
        _send_unsent()
        found = _find(f"tags.`{FLOW_RUN_TAG}` = '{flow_run_id}'") if flow_run_id else []
        if found:
            run_id: str = found[0].info.run_id
            client().update_run(run_id, status="RUNNING")
        else:
            own = {"rlhf.kind": "pipeline", FLOW_RUN_TAG: flow_run_id or ""}
            run_id = client().create_run(_experiment_id(), run_name=name, tags={**own, **tags}).info.run_id
        _log_settings(run_id, settings)
    return run_id


def open_stage(
    pipeline_run_id: str, stage: str, fingerprint: str, settings: Mapping[str, Any], inputs: Mapping[str, Reference]
) -> str:
    """Create the child run of one attempt at a stage.

    Args:
        pipeline_run_id: its parent.
        stage: name of the stage, and of the run.
        fingerprint: of the stage and all that it depends on.
        settings: the settings it is called with, nested.
        inputs: the artifacts it reads, by the names of its arguments.

    Returns:
        The run's id.
    """
    tags = {
        "mlflow.parentRunId": pipeline_run_id,
        "rlhf.kind": "stage",
        "rlhf.stage": stage,
        "rlhf.fingerprint": fingerprint,
    }
    datasets = [_dataset(name, reference.sha256, reference.uri) for name, reference in inputs.items()]

    def create() -> str:
        run_id: str = client().create_run(_experiment_id(), run_name=stage, tags=tags).info.run_id
        _log_settings(run_id, settings)
        if datasets:
            client().log_inputs(run_id, datasets)
        return run_id

    return patiently(create)


@contextmanager
def metric_log(run_id: str) -> Iterator[Callable[[Mapping[str, float], int | None], None]]:
    """Yield the function that a stage logs its metrics by. They are sent in the background, the last at the end.

    What cannot be sent by then is kept in a file, and sent by the next run.
    """
    spool = Spool(functools.partial(_send, run_id))
    try:
        with spool:
            yield spool.log
    finally:
        if spool.unsent():
            write_points(unsent_folder() / f"{run_id}.jsonl", spool.unsent())
        elif spool.not_finite:
            set_tags(run_id, {"rlhf.not_finite": "; ".join(spool.not_finite.values())})


def log_metrics(run_id: str, metrics: Mapping[str, float]) -> None:
    """Log a few final values at once."""
    now = int(time.time() * 1000)
    values = [Metric(key, value, now, 0) for key, value in metrics.items()]
    patiently(lambda: client().log_batch(run_id, metrics=values))


def set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags, cut to what a store takes."""
    values = [RunTag(key, value[:_LONGEST_TAG]) for key, value in tags.items()]
    patiently(lambda: client().log_batch(run_id, tags=values))


def set_alarms(run_id: str, names: Sequence[str]) -> None:
    """Tag a run with the alarms that went off in it, so that such runs can be searched for; nothing where none did."""
    if names:
        set_tags(run_id, {ALARMS_TAG: ",".join(dict.fromkeys(names))})


def log_dataset(run_id: str, name: str, digest: str, source: str) -> None:
    """Record a data set as an input of a run.

    Args:
        run_id: the run that reads it.
        name: what it is called.
        digest: its hash, such as DVC's md5; the first 36 characters are kept.
        source: where it is.
    """
    patiently(lambda: client().log_inputs(run_id, [_dataset(name, digest, source)]))


def finish_stage(run_id: str, reference: Reference) -> None:
    """Mark a stage's run as finished, from when on its output is found by its fingerprint."""
    set_tags(run_id, {OUTPUT_TAG: reference.model_dump_json()})
    close_run(run_id, "FINISHED")


def close_run(run_id: str, status: Status, message: str = "") -> None:
    """End a run.

    Args:
        run_id: the run.
        status: how it ended.
        message: why, where it did not end well.

    Raises:
        TrackingError: the store does not answer, and the status is FINISHED. Otherwise another error is on its way to
            the person, so this one is logged.
    """
    if status == "FINISHED":
        patiently(lambda: client().set_terminated(run_id, status))
        return
    try:
        if message:
            client().set_tag(run_id, "rlhf.error", message[:_LONGEST_TAG])
        client().set_terminated(run_id, status)
    except (MlflowException, requests.RequestException) as error:
        logger.warning("MLflow run %s could not be marked as %s: %s", run_id, status, error)


def wait_for_approval(run_id: str) -> None:
    """Show a run that goes on once a person has answered as one that will be."""
    patiently(lambda: client().update_run(run_id, status="SCHEDULED"))


def close_orphans(flow_run_id: str) -> None:
    """Mark the run of a flow run whose process is gone, and its stages, as killed, unless they had ended."""
    for pipeline in _find(f"tags.`{FLOW_RUN_TAG}` = '{flow_run_id}'"):
        for run in (*_find(f"tags.`mlflow.parentRunId` = '{pipeline.info.run_id}'"), pipeline):
            if run.info.status == "RUNNING":
                close_run(run.info.run_id, "KILLED", "the process ended without a word")


def finished_stages(stage: str, fingerprint: str) -> list[dict[str, str]]:
    """The tags of the finished runs of a stage with this fingerprint, the newest first."""
    runs = _find(
        f"tags.`rlhf.stage` = '{stage}' and tags.`rlhf.fingerprint` = '{fingerprint}'"
        " and attributes.status = 'FINISHED'"
    )
    return [run.data.tags for run in runs]


def tags_of(run_id: str) -> dict[str, str]:
    """The tags of a run; none where there is no such run."""
    runs = _find(f"attributes.run_id = '{run_id}'") if run_id.isalnum() else []
    return runs[0].data.tags if runs else {}


def pipeline_runs(tag: str, value: str) -> dict[str, dict[str, str]]:
    """The pipeline runs that bear a tag, the newest first: their tags by run id."""
    runs = _find(f"tags.`{tag}` = '{value}' and tags.`rlhf.kind` = 'pipeline'")
    return {run.info.run_id: run.data.tags for run in runs}


def metrics_of(run_id: str) -> dict[str, float]:
    """The last finite value of each metric of a run."""
    metrics: dict[str, float] = patiently(lambda: client().get_run(run_id)).data.metrics
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def link_stage(pipeline_run_id: str, stage: str, stage_run_id: str, fingerprint: str, seconds: float) -> None:
    """Tell a pipeline run of a stage: the run that trained it, its seconds, alarms, metrics and curves to compare by.

    Args:
        pipeline_run_id: the parent.
        stage: name of the stage.
        stage_run_id: the run that trained it, in this pipeline run or an earlier one.
        fingerprint: of the stage.
        seconds: what the stage took this time.
    """
    metrics = {name: value for name, value in metrics_of(stage_run_id).items() if describe(name).summary}
    log_metrics(pipeline_run_id, metrics | {f"{stage}/seconds": seconds})
    _copy_curves(stage_run_id, pipeline_run_id)
    tags = {f"rlhf.run.{stage}": stage_run_id, f"rlhf.fingerprint.{stage}": fingerprint}
    set_tags(pipeline_run_id, tags | {k: v for k, v in tags_of(stage_run_id).items() if k == ALARMS_TAG})


def _copy_curves(source: str, target: str) -> None:
    """With the times at which they were logged: copied twice, they are stored once."""
    for name in metrics_of(source):
        if describe(name).curve:
            points = patiently(functools.partial(client().get_metric_history, source, name))
            for start in range(0, len(points), BATCH_SIZE):
                batch = points[start : start + BATCH_SIZE]
                patiently(functools.partial(client().log_batch, target, metrics=batch))


def register_policy(reference: Reference) -> str:
    """Register a policy as `rlhf-policy` and give it the alias `candidate`. The same content gets no second version.

    Returns:
        The version.
    """
    return patiently(lambda: _register(reference))


def _register(reference: Reference) -> str:
    try:
        client().create_registered_model(REGISTERED_MODEL)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client().search_model_versions(f"name = '{REGISTERED_MODEL}'")
    known = [version.version for version in versions if version.tags.get("sha256") == reference.sha256]
    version = (
        known[0]
        if known
        else client()
        .create_model_version(
            REGISTERED_MODEL, reference.uri, run_id=reference.run_id, tags={"sha256": reference.sha256}
        )
        .version
    )
    client().set_registered_model_alias(REGISTERED_MODEL, "candidate", version)
    return str(version)


def client() -> MlflowClient:
    """The client of the store, for `rlhf.artifacts`."""
    return _client_of(tracking_uri())


def _experiment_id() -> str:
    return _experiment_of(tracking_uri())


@functools.cache
def _client_of(uri: str) -> MlflowClient:
    if not uri.startswith("sqlite:///"):
        return MlflowClient(uri)
    database = Path(uri.removeprefix("sqlite:///"))
    database.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that both migrate an empty file break it.
    with FileLock(f"{database}.lock"):
        return MlflowClient(uri)


@functools.cache
def _experiment_of(uri: str) -> str:
    client = _client_of(uri)
    location = None if _is_server(uri) else artifacts_folder().as_uri()
    # Another process may be making it at the same time.
    with contextlib.suppress(MlflowException):
        if client.get_experiment_by_name(EXPERIMENT) is None:
            client.create_experiment(EXPERIMENT, artifact_location=location)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        raise TrackingError(f"the MLflow store {uri} has no experiment {EXPERIMENT}, and none could be made")
    if location and uri == _own_store() and experiment.artifact_location != location:
        _move(experiment.artifact_location, location)
    if experiment.tags.get(TAG) != shared_view():
        client.set_experiment_tag(experiment.experiment_id, TAG, shared_view())
    return str(experiment.experiment_id)


def _own_store() -> str:
    return f"sqlite:///{tracking_database()}"


def _move(before: str, now: str) -> None:
    """After the project's folder was moved or copied: MLflow wrote down where artifacts are, and cannot change it."""
    logger.info("the MLflow store was at %s and is at %s", before, now)
    values = {"now": now, "start": len(before) + 1, "length": len(before), "before": before}
    with contextlib.closing(sqlite3.connect(tracking_database())) as database, database:
        for statement in _MOVE:
            database.execute(statement, values)


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _find(condition: str) -> list[Run]:
    """Runs that meet a condition, the newest first."""
    runs = patiently(lambda: client().search_runs([_experiment_id()], condition, order_by=["start_time DESC"]))
    return list(runs)


def _log_settings(run_id: str, settings: Mapping[str, Any]) -> None:
    """All of it as a file; as parameters what a table can show."""
    client().log_dict(run_id, dict(settings), "config.yaml")
    params = [Param(key, value[:_LONGEST_PARAM]) for key, value in _flat(settings)]
    for start in range(0, len(params), 100):
        client().log_batch(run_id, params=params[start : start + 100])


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def _dataset(name: str, digest: str, source: str) -> DatasetInput:
    dataset = Dataset(name, digest[:36], "local", json.dumps({"uri": source}))
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "input")])


def _send(run_id: str, points: Sequence[Point]) -> None:
    metrics = [Metric(point.key, point.value, point.timestamp, point.step) for point in points]
    try:
        client().log_batch(run_id, metrics=metrics)
    except (MlflowException, requests.RequestException) as error:
        raise NotSentError(error) from error


def _send_unsent() -> None:
    for file in sorted(unsent_folder().glob("*.jsonl")):
        try:
            for batch in read_points(file):
                _send(file.stem, batch)
        except NotSentError as error:
            logger.warning("the metrics in %s could not be sent; delete the file to forget them: %s", file, error)
        else:
            file.unlink()


def patiently(call: Callable[[], Result]) -> Result:
    """Call again while a server does not answer, for two minutes: it may be restarting, and training was long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    pause = 1.0
    while True:
        try:
            return call()
        except (MlflowException, requests.RequestException) as error:
            if getattr(error, "error_code", "") in _FINAL or time.monotonic() + pause > deadline:
                raise TrackingError(_explain(error)) from error
            logger.warning("MLflow does not answer, trying again in %.0f s: %s", pause, error)
        time.sleep(pause)
        pause = min(2 * pause, 30.0)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        raise TrackingError(_explain(error)) from error


def _explain(error: Exception) -> str:
    return f"the MLflow store {tracking_uri()} failed: {error}; look whether it runs, or set MLFLOW_TRACKING_URI"

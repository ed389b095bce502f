"""MLflow, and the only module that knows it: runs by their ids, metrics in batches, artifacts by their sha256.

A store that is slow or gone does not stop a stage: metrics wait in memory, then in a file that the next run sends.
"""

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from rlhf import project
from rlhf.errors import ArtifactMismatchError, RLHFError
from rlhf.metrics import check_declared
from rlhf.provenance import folder_sha256
from rlhf.references import DataSource, Reference

logger = logging.getLogger(__name__)

EXPERIMENT = "rlhf"
POLICY = "rlhf-policy"
OUTPUT = "output"
FLOW_RUN_TAG = "prefect.flow_run_id"
Status = Literal["FINISHED", "FAILED", "KILLED"]

_FLUSH_SECONDS = 2.0
_BATCH = 500
_RETRY_SECONDS = (0.5, 1.0, 2.0)
_MAX_MESSAGE = 4000
_MAX_PARAMETER = 500


class TrackingError(RLHFError):
    """The tracking server cannot be reached or refuses what it is asked."""


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the SQLite file in mlruns/."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project.tracking_database()}"


def experiment_url(experiment: str) -> str | None:
    """The page of the experiment's runs where a server is configured; without the parameter MLflow opens another."""
    uri = tracking_uri()
    return f"{uri}/#/experiments/{experiment}?workflowType=machine_learning" if uri.startswith("http") else None


def open_experiment() -> str:
    """The id of the project's experiment, which is made where it is missing.

    Raises:
        TrackingError: the store cannot be reached.
    """
    client = _client()
    if tracking_uri() == f"sqlite:///{project.tracking_database()}":
        project.artifacts_folder().mkdir(parents=True, exist_ok=True)
        location: str | None = project.artifacts_folder().as_uri()
    else:
        location = None
    try:
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        return str(client.create_experiment(EXPERIMENT, artifact_location=location))
    except _mlflow_error() as error:
        raise TrackingError(f"the MLflow store {tracking_uri()} cannot be used: {error}; is it running?") from error


def start_pipeline(name: str, flow_run_id: str, tags: Mapping[str, str]) -> str:
    """The parent run of a flow run: a new one, or the same one where the flow run is tried again."""
    client, experiment = _client(), open_experiment()
    found = client.search_runs([experiment], f"tags.`{FLOW_RUN_TAG}` = '{flow_run_id}'", max_results=1)
    if found:
        run_id = str(found[0].info.run_id)
        client.update_run(run_id, status="RUNNING")
        return run_id
    run = client.create_run(experiment, run_name=name, tags=dict(tags) | {FLOW_RUN_TAG: flow_run_id})
    return str(run.info.run_id)


def start_stage(parent: str, name: str, tags: Mapping[str, str]) -> str:
    """A new child run: one a stage attempt."""
    client = _client()
    experiment = client.get_run(parent).info.experiment_id
    run = client.create_run(experiment, run_name=name, tags=dict(tags) | {"mlflow.parentRunId": parent, "stage": name})
    return str(run.info.run_id)


def finish(run_id: str, status: Status, message: str | None = None) -> None:
    """End a run; it is never left running."""
    if message:
        _client().set_tag(run_id, "error", message[:_MAX_MESSAGE])
    _client().set_terminated(run_id, status)


def log_parameters(run_id: str, parameters: Mapping[str, str]) -> None:
    """Log parameters; ones that are there already are left alone, since MLflow never changes one."""
    from mlflow.entities import Param

    known = _client().get_run(run_id).data.params
    new = [Param(name, value[:_MAX_PARAMETER]) for name, value in parameters.items() if name not in known]
    for start in range(0, len(new), 100):
        _client().log_batch(run_id, params=new[start : start + 100])


def set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    from mlflow.entities import RunTag

    _client().log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def log_json(run_id: str, name: str, content: Any) -> None:
    """Log a JSON artifact: what is too long for a parameter, or must not be cut."""
    _client().log_dict(run_id, content, name)


def log_metrics(run_id: str, metrics: Mapping[str, float]) -> None:
    """Log final values at once.

    Raises:
        UndeclaredMetricError: a name is not declared in `rlhf.metrics`.
    """
    check_declared(metrics)
    _send(run_id, [(name, value, _now(), 0) for name, value in metrics.items()])


def log_data(run_id: str, source: DataSource) -> None:
    """Name the data set that a run read, with DVC's md5 as its digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=Path(source.path).name,
        digest=source.md5[:36],
        source_type="dvc" if source.tracked else "local",
        source=json.dumps({"path": source.path, "md5": source.md5}),
    )
    _client().log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def final_metrics(run_id: str) -> dict[str, float]:
    """The last value of every metric of a run."""
    metrics: dict[str, float] = _client().get_run(run_id).data.metrics
    return metrics


def save_output(run_id: str, folder: Path) -> tuple[str, str]:
    """Store a stage's output as a whole; returns its URI and sha256."""
    sha256 = folder_sha256(folder)
    _client().log_artifacts(run_id, str(folder), OUTPUT)
    return f"runs:/{run_id}/{OUTPUT}", sha256


def save_report(run_id: str, folder: Path) -> None:
    """Store a stage's tables and figures."""
    if any(folder.iterdir()):
        _client().log_artifacts(run_id, str(folder), "report")


def local_path(reference: Reference) -> Path:
    """The folder that a reference names, on this machine, verified.

    Raises:
        ArtifactMismatchError: it is gone, or is not what was stored.
    """
    folder = _find(reference)
    found = folder_sha256(folder)
    if found != reference.sha256:
        raise ArtifactMismatchError(
            f"{reference.uri} has been changed since it was stored: its sha256 is {found}, not {reference.sha256}; "
            f"restore {folder}, or delete it and run the stage again"
        )
    return folder


def is_there(reference: Reference) -> bool:
    """Whether a reference's run and artifacts still exist; their content is verified when they are read."""
    try:
        run = _client().get_run(reference.run_id)
        return run.info.lifecycle_stage == "active" and _find(reference).is_dir()
    except _mlflow_error():
        return False


def find_stage_run(run_id: str, stage: str) -> str:
    """The run that trained a stage: a pipeline run's, or the stage run itself.

    Raises:
        TrackingError: there is no such run, or it has no such stage.
    """
    try:
        tags = _client().get_run(run_id).data.tags
    except _mlflow_error() as error:
        raise TrackingError(f"there is no MLflow run {run_id}; `rlhf ui` shows which there are") from error
    if tags.get("stage") == stage:
        return run_id
    recorded = tags.get(f"stage.{stage}")
    if recorded is None:
        raise TrackingError(f"the MLflow run {run_id} has no finished stage {stage}; name a run that has one")
    return str(json.loads(recorded)["run_id"])


def read_reference(run_id: str) -> dict[str, Any]:
    """The reference that a stage run ended with, as it was recorded."""
    recorded = _client().get_run(run_id).data.tags.get("reference")
    if recorded is None:
        raise TrackingError(f"the MLflow run {run_id} was never finished, so it has no output to go on from")
    content: dict[str, Any] = json.loads(recorded)
    return content


def register_policy(reference: Reference, tags: Mapping[str, str]) -> str:
    """Register a policy as the candidate; the same sha256 is never a second version. Returns the version."""
    client = _client()
    try:
        client.get_registered_model(POLICY)
    except _mlflow_error():
        client.create_registered_model(POLICY, description="Policies aligned by this pipeline; `candidate` is the newest")
    for version in client.search_model_versions(f"name = '{POLICY}'"):
        if version.tags.get("sha256") == reference.sha256:
            number = str(version.version)
            break
    else:
        made = client.create_model_version(
            POLICY, source=reference.uri, run_id=reference.run_id, tags=dict(tags) | {"sha256": reference.sha256}
        )
        number = str(made.version)
    client.set_registered_model_alias(POLICY, "candidate", number)
    return number


class MetricWriter:
    """Sends a stage's metrics in batches from a thread of its own, with the times at which they were logged."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._queue: queue.SimpleQueue[tuple[str, float, int, int]] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._warned = False
        self._unsent: list[tuple[str, float, int, int]] = []
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def log(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Take declared metrics; returns at once."""
        check_declared(metrics)
        for name, value in metrics.items():
            self._queue.put((name, float(value), _now(), step or 0))

    def close(self) -> None:
        """Send what is left; what the server does not take is kept in a file for the next run."""
        self._closing.set()
        self._thread.join()
        if not self._unsent:
            return
        for pause in (*_RETRY_SECONDS, None):
            if self._try_to_send() or pause is None:
                break
            time.sleep(pause)
        if self._unsent:
            path = project.unsent_folder() / f"{self._run_id}-{_now()}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self._unsent))
            logger.warning("%d metric values of run %s wait in %s", len(self._unsent), self._run_id, path)

    def _run(self) -> None:
        while not self._closing.wait(_FLUSH_SECONDS):
            self._try_to_send()
        self._try_to_send()

    def _try_to_send(self) -> bool:
        while not self._queue.empty():
            self._unsent.append(self._queue.get())
        try:
            while self._unsent:
                _send(self._run_id, self._unsent[:_BATCH])
                del self._unsent[:_BATCH]
        except _mlflow_error() as error:
            if not self._warned:
                logger.warning("metrics wait until the MLflow store takes them again: %s", error)
                self._warned = True
            return False
        return True


def send_unsent() -> None:
    """Send what earlier runs could not."""
    for path in sorted(project.unsent_folder().glob("*.json")):
        run_id = path.name.partition("-")[0]
        try:
            _send(run_id, [(name, value, at, step) for name, value, at, step in json.loads(path.read_text())])
        except _mlflow_error() as error:
            logger.warning("%s still cannot be sent: %s", path, error)
            continue
        path.unlink()


def _send(run_id: str, values: list[tuple[str, float, int, int]]) -> None:
    from mlflow.entities import Metric

    for start in range(0, len(values), _BATCH):
        metrics = [Metric(name, value, at, step) for name, value, at, step in values[start : start + _BATCH]]
        _client().log_batch(run_id, metrics=metrics)


def _find(reference: Reference) -> Path:
    """Where a reference's folder is, or would be, on this machine."""
    _, _, rest = reference.uri.partition("runs:/")
    run_id, _, path = rest.partition("/")
    # The project's own store is found by where the project is, so that it can be moved.
    own = project.artifacts_folder() / run_id / "artifacts" / path
    if tracking_uri() == f"sqlite:///{project.tracking_database()}":
        return own
    from mlflow.artifacts import download_artifacts

    kept = project.downloads_folder() / reference.sha256
    if not kept.is_dir():
        temporary = kept.with_name(f"{kept.name}.{os.getpid()}.partial")
        temporary.mkdir(parents=True, exist_ok=True)
        downloaded = download_artifacts(artifact_uri=reference.uri, dst_path=str(temporary), tracking_uri=tracking_uri())
        Path(downloaded).rename(kept)
    return kept


@cache
def _client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _client() -> Any:
    uri = tracking_uri()
    if uri == f"sqlite:///{project.tracking_database()}":
        project.tracking_database().parent.mkdir(parents=True, exist_ok=True)
    return _client_of(uri)


def _mlflow_error() -> type[Exception]:
    from mlflow.exceptions import MlflowException

    return MlflowException


def _now() -> int:
    return int(time.time() * 1000)

"""Runs as they are written to MLflow: settings, metrics, tags and ends."""

import functools
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import requests
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from rlhf.addresses import with_public_addresses
from rlhf.config.flat import as_texts
from rlhf.errors import one_line
from rlhf.metrics import describe
from rlhf.paths import local_folder
from rlhf.references import Reference
from rlhf.stages import is_round
from rlhf.tracking.client import TrackingError, client, experiment_id, reason, retry_while_unavailable, translated
from rlhf.tracking.known_stores import note_store
from rlhf.tracking.metric_buffer import BATCH_SIZE, MetricPoint, NotSentError, Spool, read_points, write_points
from rlhf.tracking.queries import find, metrics_of, tags_of
from rlhf.tracking.run_locks import close_dead
from rlhf.tracking.tags import (
    ALARMS_TAG,
    ATTEMPT_TAG,
    ERROR_TAG,
    FINGERPRINT_TAG,
    FLOW_RUN_TAG,
    KIND_TAG,
    NOT_FINITE_TAG,
    OUTPUT_TAG,
    PARENT_TAG,
    RUN_OF_STAGE,
    STAGE_TAG,
)

logger = logging.getLogger(__name__)
Status = Literal["FINISHED", "FAILED", "KILLED"]

_LONGEST_PARAM = 500
_LONGEST_TAG = 5000
_BEGUN: dict[str, tuple[int, float, str]] = {}
"""Runs that this process has begun: when, by MLflow's clock in ms and by this process's steady one, and the attempt."""


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
    with translated():
        experiment_id()
    note_store()
    _send_unsent()
    runs = find(f"tags.`{FLOW_RUN_TAG}` = '{flow_run_id}'") if flow_run_id else []
    if runs:
        run_id: str = runs[0].info.run_id
        retry_while_unavailable(lambda: client().update_run(run_id, status="RUNNING"))
    else:
        run_id = _create(name, {KIND_TAG: "pipeline", FLOW_RUN_TAG: flow_run_id or "", **tags})
    retry_while_unavailable(lambda: log_settings(run_id, settings))
    return run_id


def open_run(name: str, kind: str, tags: Mapping[str, str]) -> str:
    """Create a run that is neither of a pipeline nor of a stage.

    Args:
        name: name of the run.
        kind: what it is, such as `reproduction`.
        tags: what is known of it.

    Returns:
        The run's id.
    """
    return _create(name, {KIND_TAG: kind, **tags})


def reopen_run(run_id: str, tags: Mapping[str, str]) -> None:
    """Go on in a run of `open_run`, whether it is new or had ended.

    Args:
        run_id: the run.
        tags: such as the flow run that works on it now, by which it is closed should its process be killed.
    """
    set_tags(run_id, tags)
    retry_while_unavailable(lambda: client().update_run(run_id, status="RUNNING"))


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
        PARENT_TAG: pipeline_run_id,
        KIND_TAG: "stage",
        STAGE_TAG: stage,
        FINGERPRINT_TAG: fingerprint,
    }
    datasets = [_dataset(name, reference.sha256, reference.uri) for name, reference in inputs.items()]
    run_id = _create(stage, tags)
    retry_while_unavailable(lambda: log_settings(run_id, settings))
    if datasets:
        retry_while_unavailable(lambda: client().log_inputs(run_id, datasets))
    return run_id


def _create(name: str, tags: Mapping[str, str]) -> str:
    """Create one run. A server that is killed may have made it without saying so; it is found by its attempt then."""
    attempt = str(uuid.uuid4())
    asked = False

    def create() -> str:
        nonlocal asked
        found = find(f"tags.`{ATTEMPT_TAG}` = '{attempt}'") if asked else []
        asked = True
        run = (
            found[0]
            if found
            else client().create_run(experiment_id(), run_name=name, tags={**tags, ATTEMPT_TAG: attempt})
        )
        _BEGUN[run.info.run_id] = (run.info.start_time, time.monotonic(), attempt)
        return str(run.info.run_id)

    return retry_while_unavailable(create)


@contextmanager
def metric_log(run_id: str) -> Iterator[Callable[[Mapping[str, float], int | None], None]]:
    """Yield the function that a stage logs its metrics by. They are sent in the background, the last at the end.

    What cannot be sent by then is kept in a file, and sent by the next run.
    """
    spool = Spool(functools.partial(_send, run_id))
    try:
        with spool:
            yield spool.log
    except BaseException:
        try:
            _end(spool, run_id)
        except (OSError, TrackingError) as error:  # the first error is the one to be told
            logger.warning("the last metrics of the MLflow run %s are lost: %s", run_id, one_line(error))
        raise
    _end(spool, run_id)


def _end(spool: Spool, run_id: str) -> None:
    if spool.unsent():
        write_points(local_folder("unsent") / f"{run_id}.jsonl", spool.unsent())
    elif spool.not_finite:
        set_tags(run_id, {NOT_FINITE_TAG: "; ".join(spool.not_finite.values())})


def log_metrics(run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
    """Log a few values of a step at once; final values have step 0."""
    now = int(time.time() * 1000)
    values = [Metric(key, value, now, step) for key, value in metrics.items()]
    retry_while_unavailable(lambda: client().log_batch(run_id, metrics=values))


def set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags, cut to what a store takes."""
    values = [RunTag(key, value[:_LONGEST_TAG]) for key, value in tags.items()]
    retry_while_unavailable(lambda: client().log_batch(run_id, tags=values))


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
    retry_while_unavailable(lambda: client().log_inputs(run_id, [_dataset(name, digest, source)]))


def finish_stage(run_id: str, reference: Reference) -> None:
    """Mark a stage's run as finished, from when on its output is found by its fingerprint."""
    set_tags(run_id, {OUTPUT_TAG: reference.model_dump_json()})
    close_run(run_id, "FINISHED")
    # The store answers again; on another host there may be no next run to send what it did not take before.
    _send_unsent()


def close_run(run_id: str, status: Status, message: str = "") -> bool:
    """End a run.

    Args:
        run_id: the run.
        status: how it ended. Its time is the beginning and what has passed since, whatever was done to the clock
            meanwhile; that of MLflow's own clock for a run which another process has begun.
        message: why, where it did not end well.

    Returns:
        Whether the store has taken it.

    Raises:
        TrackingError: the store does not answer, and the status is FINISHED. Otherwise another error is on its way to
            the person, so this one is logged.
    """
    begun = _BEGUN.pop(run_id, None)
    ended = begun and begun[0] + round(1000 * (time.monotonic() - begun[1]))

    def close() -> None:
        if message:
            client().set_tag(run_id, ERROR_TAG, message[:_LONGEST_TAG])
        client().set_terminated(run_id, status, ended)
        if begun:
            _delete_doubles(run_id, begun[2])

    if status == "FINISHED":
        retry_while_unavailable(close)
        return True
    try:
        close()
    except (MlflowException, requests.RequestException, SQLAlchemyError, OSError) as error:
        logger.warning("MLflow run %s could not be marked as %s: %s", run_id, status, reason(error))
        return False
    return True


def _delete_doubles(run_id: str, attempt: str) -> None:
    """A server that answers late may have made a run twice: it was asked again, and the first had not been seen yet."""
    for run in find(f"tags.`{ATTEMPT_TAG}` = '{attempt}'"):
        if run.info.run_id != run_id:
            client().delete_run(run.info.run_id)


@contextmanager
def closing_run(run_id: str) -> Iterator[None]:
    """End a run as FAILED or KILLED where the block does not come to its end."""
    try:
        yield
    except Exception as error:
        close_run(run_id, "FAILED", f"{type(error).__name__}: {with_public_addresses(str(error))}")
        raise
    except BaseException as error:
        close_run(run_id, "KILLED", type(error).__name__)
        raise


def wait_for_approval(run_id: str) -> None:
    """Show a run that goes on once a person has answered as one that will be."""
    retry_while_unavailable(lambda: client().update_run(run_id, status="SCHEDULED"))


def close_orphans(flow_run_id: str) -> bool:
    """Mark the run of a flow run whose process is gone, and its stages, as killed, unless they had ended.

    Returns:
        Whether the store has taken all of it.
    """
    return _close_as_killed(_running(flow_run_id))


def _close_as_killed(run_ids: Sequence[str]) -> bool:
    return all([close_run(run_id, "KILLED", "the process ended without a word") for run_id in run_ids])


def close_killed_runs() -> list[str]:
    """End the runs of flow runs whose process was killed, or could not write down how it ended. Returns the flow runs.

    Raises:
        TrackingError: the store does not answer.
    """
    ended = []

    def close(flow_run_id: str) -> bool:
        running = _running(flow_run_id)
        if running:
            ended.append(flow_run_id)
        return _close_as_killed(running)

    return [flow_run_id for flow_run_id in close_dead(close) if flow_run_id in ended]


def is_running(flow_run_id: str) -> bool:
    """Whether the store has a run of a flow run that has no end, wherever its process is or was."""
    return bool(_running(flow_run_id))


def _running(flow_run_id: str) -> list[str]:
    """The runs of a flow run that have no end, stages first."""
    pipelines = find(f"tags.`{FLOW_RUN_TAG}` = '{flow_run_id}'")
    stages = [run for pipeline in pipelines for run in find(f"tags.`{PARENT_TAG}` = '{pipeline.info.run_id}'")]
    return [run.info.run_id for run in (*stages, *pipelines) if run.info.status == "RUNNING"]


def link_stage(pipeline_run_id: str, stage: str, stage_run_id: str, fingerprint: str, seconds: float) -> None:
    """Tell a pipeline run of a stage: the run that trained it, its seconds, alarms, metrics and curves to compare by.

    Seconds, metrics and curves of a round before the policy stay with the round's own run: they have the names of the
    policy's.

    Args:
        pipeline_run_id: the parent.
        stage: name of the stage or round.
        stage_run_id: the run that trained it, in this pipeline run or an earlier one.
        fingerprint: of the stage.
        seconds: what the stage took this time.
    """
    if not is_round(stage):
        metrics = {name: value for name, value in metrics_of(stage_run_id).items() if describe(name).summary}
        log_metrics(pipeline_run_id, metrics | {f"{stage}/seconds": seconds})
        _copy_curves(stage_run_id, pipeline_run_id)
    set_tags(
        pipeline_run_id,
        {f"{RUN_OF_STAGE}{stage}": stage_run_id, f"{FINGERPRINT_TAG}.{stage}": fingerprint},
    )
    alarms = [tags_of(run_id).get(ALARMS_TAG, "") for run_id in (pipeline_run_id, stage_run_id)]
    set_alarms(pipeline_run_id, [name for names in alarms for name in names.split(",") if name])


def _copy_curves(source: str, target: str) -> None:
    """With the times at which they were logged: copied twice, they are stored once."""
    for name in metrics_of(source):
        if describe(name).curve:
            points = retry_while_unavailable(functools.partial(client().get_metric_history, source, name))
            for start in range(0, len(points), BATCH_SIZE):
                batch = points[start : start + BATCH_SIZE]
                retry_while_unavailable(functools.partial(client().log_batch, target, metrics=batch))


def log_settings(run_id: str, settings: Mapping[str, Any]) -> None:
    """All of it as a file; as parameters what a table can show."""
    client().log_dict(run_id, dict(settings), "config.yaml")
    params = [Param(key, value) for key, value in parameters(settings).items()]
    for start in range(0, len(params), 100):
        client().log_batch(run_id, params=params[start : start + 100])


def parameters(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings as a run's parameters: flat, as text, cut to what a table can show."""
    return {key: value[:_LONGEST_PARAM] for key, value in as_texts(settings).items()}


def _dataset(name: str, digest: str, source: str) -> DatasetInput:
    dataset = Dataset(name, digest[:36], "local", json.dumps({"uri": source}))
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "input")])


def _send(run_id: str, points: Sequence[MetricPoint]) -> None:
    metrics = [Metric(point.key, point.value, point.timestamp, point.step) for point in points]
    try:
        client().log_batch(run_id, metrics=metrics)
    except (MlflowException, requests.RequestException) as error:
        raise NotSentError(error) from error


def _send_unsent() -> None:
    for file in sorted(local_folder("unsent").glob("*.jsonl")):
        try:
            for batch in read_points(file):
                _send(file.stem, batch)
        except NotSentError as error:
            logger.warning(
                "the metrics in %s could not be sent; delete the file to forget them: %s", file, one_line(error)
            )
        else:
            file.unlink()

"""The adapter between a stage and Prefect: cache, lock, tracking, references.

A stage's fingerprint is its Prefect cache key and names its working folder. So a stage whose inputs, settings and
code have not changed shows as Cached, in whatever flow run, and one that was killed finds its checkpoints again.
"""

import fcntl
import functools
import inspect
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from prefect import Task
from prefect.logging import get_run_logger
from pydantic import BaseModel, ConfigDict, ValidationError

from rlhf import project, provenance, tracking
from rlhf.references import Reference, StageReport
from rlhf.workspace import Workspace
from tasks.pipeline import Pipeline, current_pipeline, message_of, status_of

P = ParamSpec("P")
R = TypeVar("R", bound=Reference)


@dataclass(frozen=True)
class StageRun:
    """What a stage's body is given besides its arguments."""

    workspace: Workspace
    pipeline: Pipeline

    def local(self, reference: Reference) -> Path:
        """The folder that a reference names, verified against its sha256."""
        return tracking.local_path(reference)


class StageRecord(BaseModel):
    """What is kept of a stage that is done, beside its checkpoints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: dict[str, Any]
    pipeline_run_id: str
    seconds: float


def stage(
    name: str, *, module: str, makes: type[R], version: int = 1
) -> Callable[[Callable[Concatenate[StageRun, P], None]], Callable[P, R]]:
    """Make a stage of a function that calls the library.

    Args:
        name: of the task in Prefect and of the run in MLflow.
        module: the library's module that does the work; its source counts in the fingerprint.
        makes: the reference that the stage returns; fields beyond the artifact's are taken from arguments of the
            same name.
        version: raise it where the stage's meaning changes in a way that the source does not show.
    """

    def decorate(body: Callable[Concatenate[StageRun, P], None]) -> Callable[P, R]:
        @functools.wraps(body)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            pipeline, started = current_pipeline(), time.monotonic()
            bound = inspect.signature(body).bind(None, *args, **kwargs)  # type: ignore[arg-type]
            arguments = dict(list(bound.arguments.items())[1:])
            key = provenance.fingerprint(name, version, module, arguments)
            folder = project.stages_folder() / f"{name}-{key[:16]}"

            def perform(fingerprint: str, inputs: dict[str, Reference]) -> R:
                return _perform(name, folder, pipeline, arguments, makes, key, lambda work: body(work, *args, **kwargs))

            perform.__doc__ = body.__doc__
            inputs = {n: value for n, value in arguments.items() if isinstance(value, Reference)}
            task: Task[..., R] = Task(
                perform,
                name=name,
                cache_key_fn=lambda *_: key,
                persist_result=True,
                result_serializer="json",
                result_storage=_results_folder(),
                refresh_cache=_read_record(folder, makes) is None,
                log_prints=True,
            )
            reference = task(fingerprint=key, inputs=inputs)
            record = _read_record(folder, makes)
            assert record is not None, "a stage that returned has left its record"
            trained = record.pipeline_run_id == pipeline.run_id
            pipeline.record(
                StageReport(
                    name=name,
                    state="trained" if trained else "cached",
                    run_id=reference.run_id,
                    seconds=time.monotonic() - started,
                    trained_seconds=record.seconds,
                ),
                key,
                reference,
            )
            return reference

        return run

    return decorate


def _perform(
    name: str,
    folder: Path,
    pipeline: Pipeline,
    arguments: dict[str, Any],
    makes: type[R],
    fingerprint: str,
    body: Callable[[StageRun], None],
) -> R:
    """Do the work once, whoever asks for it: a second run waits at the lock and finds it done."""
    with _locked(folder):
        done = _read_record(folder, makes)
        if done is not None:
            return makes.model_validate(done.reference)
        tags = {"fingerprint": fingerprint, "mlflow.source.git.commit": pipeline.git.commit or ""}
        run_id = tracking.start_stage(pipeline.run_id, name, tags)
        metrics = tracking.MetricWriter(run_id)
        started = time.monotonic()
        try:
            _log_settings(run_id, arguments)
            workspace = _workspace(folder, metrics)
            body(StageRun(workspace, pipeline))
            uri, sha256 = tracking.save_output(run_id, workspace.output)
            tracking.save_report(run_id, workspace.report)
            extra = {field: arguments[field] for field in makes.model_fields if field in arguments}
            reference = makes(run_id=run_id, uri=uri, sha256=sha256, **extra)
            seconds = time.monotonic() - started
            tracking.log_metrics(run_id, {f"{name}/seconds": seconds})
            tracking.set_tags(run_id, {"reference": reference.model_dump_json()})
        except BaseException as error:
            metrics.close()
            tracking.finish(run_id, status_of(error), message_of(error))
            raise
        metrics.close()
        tracking.finish(run_id, "FINISHED")
        _write_record(folder, StageRecord(reference=reference.model_dump(), pipeline_run_id=pipeline.run_id, seconds=seconds))
        for part in (workspace.output, workspace.report, workspace.checkpoints):
            shutil.rmtree(part)
        return reference


def _workspace(folder: Path, metrics: tracking.MetricWriter) -> Workspace:
    """Fresh folders for output and report; the checkpoints of an earlier attempt stay."""
    output, report, checkpoints = (folder / name for name in ("output", "report", "checkpoints"))
    for path in (output, report):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    checkpoints.mkdir(exist_ok=True)
    if any(checkpoints.iterdir()):
        get_run_logger().info("going on from the checkpoints in %s", checkpoints)
    return Workspace(output, report, checkpoints, metrics.log)


def _log_settings(run_id: str, arguments: dict[str, Any]) -> None:
    parameters: dict[str, str] = {}
    for name, value in arguments.items():
        if isinstance(value, Reference):
            parameters[f"{name}.sha256"] = value.sha256
        elif isinstance(value, BaseModel):
            parameters |= {f"{name}.{key}": text for key, text in provenance.flat(value).items()}
        else:
            parameters[name] = str(value)
    tracking.log_parameters(run_id, parameters)


def _read_record(folder: Path, makes: type[R]) -> StageRecord | None:
    """The record of a stage that is done and whose artifacts are still there."""
    path = folder / "result.json"
    if not path.exists():
        return None
    try:
        record = StageRecord.model_validate_json(path.read_text())
        reference = makes.model_validate(record.reference)
    except ValidationError:
        return None  # written by another version of the project
    return record if tracking.is_there(reference) else None


def _write_record(folder: Path, record: StageRecord) -> None:
    temporary = folder / "result.json.partial"
    temporary.write_text(json.dumps(record.model_dump()))
    temporary.rename(folder / "result.json")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """A kernel lock, which a process that is killed gives back."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            get_run_logger().info("another run is at work on this stage; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _results_folder() -> Path:
    folder = project.results_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder

"""The parts that all tasks have in common: fingerprint, cache, lock, tracking, artifacts.

A stage's Prefect task has the stage's fingerprint as its cache key. Prefect knows only its own JSON of a result and
swallows errors inside a cache key function, so the fingerprint is computed, and the artifact that it names verified,
before the task is called. MLflow is the record of what has been made; Prefect's cache shows it.
"""

import functools
import inspect
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, get_type_hints

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from pydantic import BaseModel

from rlhf.config.model import ModelConfig, Setup
from rlhf.config.policy import PolicyConfig
from rlhf.config.rl import RLConfig
from rlhf.errors import RLHFError
from rlhf.files.checkpoint_mirror import address_of, mirrored, remove_copy
from rlhf.files.locks import lock_of, locked
from rlhf.files.tidying import tidy_up
from rlhf.modeling.hub import base_with_folder, source_with_folder
from rlhf.paths import local_folder, stage_folder
from rlhf.progress import Measured, Sampled, StageBegan, StageEnded, tell, watching
from rlhf.provenance import hardware
from rlhf.provenance.fingerprint import stage_fingerprint
from rlhf.provenance.memory import peak_memory
from rlhf.references import Reference, StageReport
from rlhf.text.lines import read_json_lines
from rlhf.tracking import artifacts
from rlhf.tracking.client import TrackingError, UnusableStoreError
from rlhf.tracking.queries import metrics_of
from rlhf.tracking.runs import closing_run, finish_stage, log_metrics, metric_log, open_stage, set_tags
from rlhf.tracking.tags import MACHINE_TAG
from rlhf.workspace import Workspace, newest_step
from tasks.core_slots import reserve_cores
from tasks.lease import Lease, attempt_lease
from tasks.pipeline_run import current
from tasks.prefect_artifacts import progress_artifact
from tasks.stored_results import remove_if_foreign

P = ParamSpec("P")
R = TypeVar("R", bound=Reference)
AnyReference = TypeVar("AnyReference", bound=Reference)
AnyPolicyConfig = TypeVar("AnyPolicyConfig", bound=PolicyConfig)
Module = str | Callable[[Mapping[str, Any]], str]
"""The module that does a stage's work, or what names it by the stage's arguments."""


_planning: ContextVar[Literal["verified", "unverified"] | None] = ContextVar("planning", default=None)


_round: ContextVar[str | None] = ContextVar("round", default=None)


@contextmanager
def as_round(name: str | None) -> Iterator[None]:
    """Within the block a stage's call is a round, and its pipeline run knows it by this name. None: it is no round."""
    token = _round.set(name)
    try:
        yield
    finally:
        _round.reset(token)


class NotMadeError(RLHFError):
    """A stage that is asked for its output, and has yet to compute it.

    Attributes:
        name: of the stage, or of the round.
        folder: the working folder of its attempts.
        settings: with which it would be called, nested.
    """

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(f"{folder.name} is not made yet")
        self.name = name
        self.folder = folder
        self.settings = settings


@contextmanager
def planning(*, verified: bool) -> Iterator[None]:
    """Within the block a call of a stage finds its output, or raises `NotMadeError`, and computes nothing.

    Args:
        verified: whether the files of an output are read, which for large models takes a while.
    """
    token = _planning.set("verified" if verified else "unverified")
    try:
        yield
    finally:
        _planning.reset(token)


def is_planning() -> bool:
    """Whether this is inside `planning`, where there is no run."""
    return _planning.get() is not None


@dataclass(frozen=True)
class Attempt:
    """One attempt at a stage.

    Attributes:
        run_id: its MLflow run.
        fingerprint: of the stage's call.
        workspace: the folders that the stage works in, and where its metrics go.
        confirm: raises where another attempt at the stage has taken over.
    """

    run_id: str
    fingerprint: str
    workspace: Workspace
    confirm: Callable[[], None] = lambda: None

    def path(self, reference: Reference) -> Path:
        """The local folder of an input, verified."""
        return artifacts.local_path(reference)

    def model(self, model: ModelConfig) -> ModelConfig:
        """The model settings with a base model's folder resolved against the project's root."""
        return base_with_folder(model)

    def setup(self, setup: Setup) -> Setup:
        """A setup with a base model's folder resolved."""
        return setup.model_copy(update={"model": self.model(setup.model)})

    def policy(self, config: AnyPolicyConfig) -> AnyPolicyConfig:
        """A method's settings with the folders of reward models resolved."""
        return config.model_copy(update={"rewards": tuple(map(source_with_folder, config.rewards))})

    def save(self, kind: type[AnyReference], **more: object) -> AnyReference:
        """Store what the stage made, and return the reference to it."""
        self.confirm()
        artifacts.save_report(self.run_id, self.workspace.report)
        uri, sha256 = artifacts.save_output(self.run_id, self.workspace.output)
        artifacts.save_answers(self.run_id, self.workspace.output)
        return kind.model_validate({"run_id": self.run_id, "uri": uri, "sha256": sha256, **more})


@dataclass(frozen=True)
class _Stage(Generic[R]):
    name: str
    version: str
    module: Module
    body: Callable[..., R]
    kind: type[R]
    signature: inspect.Signature


@dataclass(frozen=True)
class _Call(Generic[R]):
    """One call of a stage by a flow."""

    stage: _Stage[R]
    arguments: Mapping[str, Any]
    fingerprint: str
    found: R | None
    lease: Lease | None = None

    @property
    def folder(self) -> Path:
        return stage_folder(self.stage.name, self.fingerprint)


def stage(name: str, version: str, module: Module) -> Callable[[Callable[Concatenate[Attempt, P], R]], Callable[P, R]]:
    """Make a versioned Prefect task of a function that adapts a stage. Call it inside `pipeline_run`.

    Args:
        name: of the stage: the task's name, and the prefix of its metrics.
        version: raise it where something has changed that the fingerprint does not see.
        module: the module of `rlhf` that does the work; sources that it reaches are part of the fingerprint.
    """

    def decorate(body: Callable[Concatenate[Attempt, P], R]) -> Callable[P, R]:
        signature = inspect.signature(body)
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
        adapted: _Stage[R] = _Stage(name, version, module, body, get_type_hints(body)["return"], signature)

        @functools.wraps(body)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return _run(adapted, bound.arguments)

        return call

    return decorate


def _run(adapted: _Stage[R], arguments: Mapping[str, Any]) -> R:
    """Run a stage, or find what an earlier run made."""
    started = time.monotonic()
    # The adapter decides what the library is called with.
    decisive = {**arguments, "adapter": inspect.getsource(adapted.body)}
    module = adapted.module if isinstance(adapted.module, str) else adapted.module(arguments)
    fingerprint = stage_fingerprint(adapted.name, adapted.version, decisive, module)
    folder = stage_folder(adapted.name, fingerprint)
    name, planned = _round.get() or adapted.name, _planning.get()
    if planned is not None:
        made = artifacts.find_output(adapted.name, fingerprint, adapted.kind, verified=planned == "verified")
        if made is None:
            raise NotMadeError(name, folder, _settings(arguments))
        return made
    tell(StageBegan(name, newest_step(folder)))
    with ExitStack() as held:
        held.enter_context(locked(lock_of(folder), f"another run works on {folder.name}; this one waits for it"))
        lease, found = None, artifacts.find_output(adapted.name, fingerprint, adapted.kind)
        if found is None:
            busy = f"another host works on {folder.name}; this one waits for it"
            lease = held.enter_context(attempt_lease(fingerprint, folder, busy))
            found = artifacts.find_output(adapted.name, fingerprint, adapted.kind) if lease else None
        call = _Call(adapted, arguments, fingerprint, found, lease)
        remove_if_foreign(local_folder("results") / fingerprint, adapted.kind)
        reference: R = _task(call)(**arguments)
        if found is not None and reference != found:
            # Prefect's JSON is of an artifact that is gone, and was made again elsewhere.
            reference = _task(call, refresh=True)(**arguments)
    trained_seconds = metrics_of(reference.run_id)[f"{adapted.name}/trained_seconds"]
    report = StageReport(
        name=name,
        state="trained" if found is None else "cached",
        run_id=reference.run_id,
        seconds=time.monotonic() - started,
        trained_seconds=trained_seconds,
    )
    current().finish_stage(report, reference, fingerprint)
    tell(StageEnded(name, report.state, report.seconds))
    return reference


def _task(call: _Call[R], *, refresh: bool = False) -> Task[..., R]:
    def run(*_: object, **__: object) -> R:
        if call.found is not None:
            return call.found
        # Ray queues by itself what it computes, wherever that is.
        with reserve_cores({} if _is_on_ray(call.arguments) else call.arguments):
            return _attempt(call)

    functools.update_wrapper(run, call.stage.body)
    del run.__wrapped__  # type: ignore[attr-defined]
    run.__signature__ = call.stage.signature  # type: ignore[attr-defined]
    return Task(
        run,
        name=call.stage.name,
        task_run_name=call.arguments.get("method", call.stage.name),
        version=call.stage.version,
        cache_key_fn=lambda *_: call.fingerprint,
        persist_result=True,
        result_storage=local_folder("results"),
        result_serializer="json",
        refresh_cache=refresh or call.found is None,
        # Prefect's log_prints replaces print, whose output dill reads when datasets hashes a function.
        log_prints=False,
        retries=2,
        retry_delay_seconds=[10, 60],
        retry_condition_fn=_may_pass,
    )


def _may_pass(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Only a tracking store that does not answer is worth another try; the stage goes on from its checkpoint then."""
    return isinstance(state.data, TrackingError) and not isinstance(state.data, UnusableStoreError)


def _attempt(call: _Call[R]) -> R:
    """Do the work, in an MLflow run of its own."""
    name = call.stage.name
    inputs = dict(_references(call.arguments))
    run_id = open_stage(current().run_id, name, call.fingerprint, _settings(call.arguments), inputs)
    started = time.monotonic()
    address, is_on_ray = address_of(current().cluster.checkpoint_uri, call.folder), _is_on_ray(call.arguments)
    with closing_run(run_id):
        may_copy = call.lease.look if call.lease else lambda: None
        copied = mirrored(call.folder / "checkpoints", None if is_on_ray else address, may_copy)
        with metric_log(run_id) as log, watching(progress_artifact(name)), copied:
            told = _Told(name, log, call.folder / "checkpoints", call.lease)
            confirm = call.lease.confirm if call.lease else lambda: None
            attempt = Attempt(run_id, call.fingerprint, _workspace(call.folder, told), confirm)
            with peak_memory(0 if is_on_ray else _num_workers(call.arguments)) as peak:
                reference = call.stage.body(attempt, **call.arguments)
        seconds = time.monotonic() - started
        costs = {"seconds": seconds, "trained_seconds": seconds, **peak.metrics()}
        log_metrics(run_id, {f"{name}/{cost}": value for cost, value in costs.items()})
        set_tags(run_id, {MACHINE_TAG: hardware()})
        confirm()
        finish_stage(run_id, reference)
    tidy_up(call.folder)
    remove_copy(address)
    return reference


def _num_workers(arguments: Mapping[str, Any]) -> int:
    """Processes that a stage starts: that of the policy, where several share its work."""
    is_policy = any(isinstance(value, PolicyConfig) for value in arguments.values())
    setups = [value for value in arguments.values() if isinstance(value, Setup)]
    several = setups[0].compute.num_processes if is_policy and setups else 1
    return several if several > 1 else 0


def _is_on_ray(arguments: Mapping[str, Any]) -> bool:
    """Whether nodes of a Ray cluster compute a stage, and copy its checkpoints."""
    return current().cluster.backend == "ray" and isinstance(arguments.get("config"), RLConfig)


@dataclass
class _Told:
    """Logs metrics, and tells whoever watches of them, and of answers that were sampled meanwhile.

    Attributes:
        stage: its name.
        log: where metrics go.
        checkpoints: of the stage.
        lease: of the attempt, which stops where it has lost it.
        newest: the last evaluation whose answers were told of.
    """

    stage: str
    log: Callable[[Mapping[str, float], int | None], None]
    checkpoints: Path
    lease: Lease | None = None
    newest: Path | None = None

    def __call__(self, metrics: Mapping[str, float], step: int | None) -> None:
        if self.lease is not None:
            self.lease.look()
        self.log(metrics, step)
        tell(Measured(self.stage, metrics))
        newest = max(self.checkpoints.glob("generations/update_????.jsonl"), default=None)
        if newest is not None and newest != self.newest:
            self.newest = newest
            update = int(newest.stem.removeprefix("update_"))
            rows = list(read_json_lines(newest))
            row = rows[update % len(rows)]
            tell(Sampled(self.stage, update, row["prompt"][-1]["content"], row["response"]))


def _references(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Reference]]:
    """The outputs that a stage reads, by the names of its arguments; those of a tuple are numbered."""
    for name, value in arguments.items():
        if isinstance(value, Reference):
            yield name, value
        elif isinstance(value, tuple):
            yield from ((f"{name}.{number}", reference) for number, reference in enumerate(value, 1))


def _settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in arguments.items() if not isinstance(value, Reference | tuple)}
    return {
        key: value.model_dump(mode="json") if isinstance(value, BaseModel) else value for key, value in settings.items()
    }


def _workspace(folder: Path, log: Callable[[Mapping[str, float], int | None], None]) -> Workspace:
    """Empty folders for output and report, and the checkpoints of an attempt that was killed, if there was one."""
    for name in ("output", "report"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("output", "report", "checkpoints"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return Workspace(folder / "output", folder / "report", folder / "checkpoints", log)

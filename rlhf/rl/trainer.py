"""From the SFT policy and two reward models, by rollouts, to the checkpoint that held-out evidence prefers."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rlhf.config.rl import LARGEST_KL_ERROR, RLConfig
from rlhf.errors import DataError, TrainingDivergedError
from rlhf.files.disk import check_room
from rlhf.files.manifest import folder_sha256
from rlhf.modeling.context import StageContext, start_stage
from rlhf.modeling.conversations import encode_pairs
from rlhf.modeling.cpu.memory import trim_heap
from rlhf.modeling.models import load_policy
from rlhf.policy import distributed as processes
from rlhf.policy.alarms import AlarmState, watch_update
from rlhf.policy.best_checkpoint import remove_other_candidates
from rlhf.policy.choice import Choice, raise_alarms
from rlhf.policy.kl import steer_kl_coef
from rlhf.policy.prompts import training_prompts, validation_prompts
from rlhf.progress import report_progress
from rlhf.rewards.sources import RunningMoments
from rlhf.rl.algorithms import ALGORITHMS
from rlhf.rl.checkpoint import (
    TrainerState,
    last_saved_update,
    latest_checkpoint,
    load_checkpoint,
    needed_bytes,
    save_checkpoint,
)
from rlhf.rl.checks import check_finite, check_weights
from rlhf.rl.context import Demonstrations, RLContext, make_context
from rlhf.rl.models import load_models
from rlhf.rl.ptx import corpus_loss, pack
from rlhf.rl.request import RLRequest
from rlhf.rl.update import run_update
from rlhf.text.lines import read_json_lines
from rlhf.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """Parts of a run that stay the same throughout."""

    context: RLContext
    choice: Choice
    request: RLRequest

    @property
    def config(self) -> RLConfig:
        """The method's settings."""
        return self.context.config

    @property
    def workspace(self) -> Workspace:
        """Of the stage."""
        return self.choice.workspace

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings of the run by name, as JSON. A folder counts by what is in it: a project may move.

        Not `compute.sharding`: checkpoints hold whole tensors, and sharded and whole models go on from them alike.
        """
        compute = self.context.compute.model_dump(mode="json", exclude={"sharding"})
        of_compute = {f"compute.{name}": value for name, value in compute.items()}
        own = {"method": self.context.algorithm.method.title, "seed": self.context.setup.seed}
        settings = self.config.model_dump(mode="json") | of_compute | own
        for source in settings["rewards"]:
            if source["path"] is not None and Path(source["path"]).is_dir():
                source["path"] = f"sha256:{folder_sha256(Path(source['path']))}"
        return settings


def train(request: RLRequest, workspace: Workspace) -> None:
    """Train in this process, which may be one of several that were started; see `rlhf.rl.stage.train_from_rollouts`."""
    context = start_stage(request.rl, request.setup, request.start / "policy")
    with processes.process_group(context.compute), processes.noticing_losses():
        _train(_prepare(context, request, workspace))


def _train(run: Run) -> None:
    config = run.config
    state = _resume(run)
    started = time.monotonic()
    while state.next_update < config.num_updates and state.stopped_because is None:
        state = _update(run, state)
    stopped_because = "finished" if state.next_update == config.num_updates else str(state.stopped_because)
    elapsed = time.monotonic() - started
    logger.info("training: %s after %d updates, %.0f s", stopped_because, state.next_update, elapsed)
    _finish(run, state, stopped_because)


def _update(run: Run, state: TrainerState) -> TrainerState:
    """One rollout and what is learned from it; returns the new state."""
    config, update, start = run.config, state.next_update, time.monotonic()
    moments = {name: RunningMoments(**values) for name, values in state.moments.items()}  # type: ignore[arg-type]
    with _diverging(run, update + 1):
        outcome = run_update(run.context, update, state.kl_coef, moments)
    speed = {"policy/episodes_per_second": config.rollout_size / (time.monotonic() - start)}
    check_finite(outcome.metrics, update + 1, run.workspace.checkpoints)
    check_weights(run.context.models, update + 1, run.workspace.checkpoints)
    state = run.choice.log_and_note(state, outcome.metrics | speed, update + 1)
    if processes.is_first():
        report_progress("policy", update + 1, config.num_updates)
    state = _watch(run, state, outcome.metrics)
    state = replace(
        state,
        next_update=update + 1,
        kl_coef=_next_kl_coef(config, state.kl_coef, outcome.metrics["policy/kl_mean"]),
        moments={name: asdict(values) for name, values in outcome.rollout.moments.items()},
    )
    if state.next_update % config.evaluate_every == 0 or state.next_update == config.num_updates:
        state = _evaluate(run, state)
    if state.next_update % config.checkpoint_every == 0:
        _save(run, state)
        trim_heap()
    return state


@contextmanager
def _diverging(run: Run, update: int) -> Iterator[None]:
    """Say of numbers that are no longer finite when that was, and where the last good checkpoint is."""
    try:
        yield
    except FloatingPointError as error:
        raise TrainingDivergedError(update, str(error), latest_checkpoint(run.workspace.checkpoints)) from error


def _save(run: Run, state: TrainerState) -> None:
    models, optimizers = run.context.models, run.context.optimizers
    processes.check_alike([*models.policy_parameters.values(), *models.value_parameters.values()])
    start = time.monotonic()
    save_checkpoint(run.workspace.checkpoints, state, models, optimizers, run.settings)
    if processes.is_first():
        run.choice.log({"policy/checkpoint_seconds": time.monotonic() - start}, state.next_update)
        remove_other_candidates(run.workspace.checkpoints, state.evaluations, run.config.kl_budget, state.next_update)


def _watch(run: Run, state: TrainerState, metrics: Mapping[str, float]) -> TrainerState:
    """Look at an update's metrics; a fatal alarm or a spent KL budget is a reason to stop."""
    memory, alarms = watch_update(run.config.alarms, AlarmState(**state.alarms), metrics, state.next_update + 1)
    state = raise_alarms(state, memory, alarms)
    if state.stopped_because is None and metrics["policy/kl_mean"] > run.config.kl_budget:
        state = replace(state, stopped_because="kl_budget")
    return state


def _prepare(context: StageContext[RLConfig], request: RLRequest, workspace: Workspace) -> Run:
    config, tokenizer, data = context.config, context.tokenizer, request.data
    has_critic = ALGORITHMS[request.method].method.has_critic
    models = load_models(context, request.start, request.reward_models, has_critic=has_critic)
    check_room(workspace.checkpoints, needed_bytes(models), "the policy's checkpoints")
    updates = make_context(
        context,
        models,
        training_prompts(data, tokenizer),
        _read_ptx(context, data) if config.ptx_coef else None,
        request.method,
    )
    validation = validation_prompts(data, tokenizer, config.num_validation_prompts)
    choice = Choice(updates, config.alarms, validation, workspace, config.num_updates, config.rollout_size)
    return Run(updates, choice, request)


def _read_ptx(context: StageContext[RLConfig], data: Path) -> Demonstrations:
    tokenizer = context.tokenizer
    if context.config.ptx_source == "corpus":
        blocks = _read_corpus(context, data, "train")
        if not blocks:
            raise DataError(
                "corpus.jsonl: rl.ptx_source is corpus, but the data has no corpus to learn from; give the file, with "
                '{"text": ...} on each line, or set rl.ptx_source to demonstrations'
            )
        return blocks
    path = data / "demonstrations" / "train.jsonl"
    rows = list(read_json_lines(path))
    if not rows:
        raise DataError(f"{path.name}: there are no demonstrations for PPO-ptx; set rl.ptx_coef to 0, or give some")
    return encode_pairs(tokenizer, [row["prompt"] for row in rows], [row["completion"] for row in rows])


def _read_corpus(context: StageContext[RLConfig], data: Path, split: str) -> Demonstrations:
    """Blocks of a corpus; none where the data has none."""
    path = data / "corpus" / f"{split}.jsonl"
    texts = [row["text"] for row in read_json_lines(path)] if path.is_file() else []
    return pack(context.tokenizer, texts, context.setup.model.max_length) if texts else []


def _resume(run: Run) -> TrainerState:
    """Go on from the newest checkpoint, or evaluate the SFT policy and begin."""
    path = latest_checkpoint(run.workspace.checkpoints)
    processes.check_agreed("newest checkpoint", path.name if path else "none")
    if path is not None:
        logger.info("training goes on from %s", path.name)
        state = load_checkpoint(path, run.context.models, run.context.optimizers, run.settings)
        run.choice.log_again(state)
        processes.wait_for_all()  # before the first one writes, and removes what the others read
        return state
    return _evaluate(run, TrainerState(kl_coef=run.config.kl_coef))


def _evaluate(run: Run, state: TrainerState) -> TrainerState:
    with _diverging(run, state.next_update):
        return run.choice.evaluate(state, state.next_update, last_saved_update(run.workspace.checkpoints))


def _finish(run: Run, state: TrainerState, stopped_because: str) -> None:
    if state.evaluations[-1]["update"] != state.next_update:
        state = _evaluate(run, state)
    run.choice.finish(state, state.next_update, stopped_because)
    blocks = _read_corpus(run.context, run.request.data, "validation")
    if blocks and processes.is_first():
        folders = {"_before": run.request.start / "policy", "": run.workspace.output / "policy"}
        losses = {
            f"policy/corpus_loss{name}": corpus_loss(run.context, blocks, load_policy(folder, run.context.compute))
            for name, folder in folders.items()
        }
        run.workspace.log_metrics(losses, None)


def _next_kl_coef(config: RLConfig, kl_coef: float, kl: float) -> float:
    if config.kl_target is None or config.kl_horizon is None:
        return kl_coef
    steering = {"target": config.kl_target, "horizon": config.kl_horizon, "largest_error": LARGEST_KL_ERROR}
    return steer_kl_coef(kl_coef, kl, config.rollout_size, **steering)

"""The PPO stage: from the SFT policy and two reward models to the checkpoint that held-out evidence prefers."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rlhf.config.rl import LARGEST_KL_ERROR, RLConfig
from rlhf.data.preparation.splits import prompt_key
from rlhf.errors import DataError, TrainingDivergedError
from rlhf.files.disk import check_room
from rlhf.files.manifest import folder_sha256
from rlhf.modeling.context import StageContext, start_stage
from rlhf.modeling.conversations import Conversation, encode_pairs, encode_prompts
from rlhf.modeling.cpu.memory import trim_heap
from rlhf.progress import report_progress
from rlhf.rewards.sources import RunningMoments
from rlhf.rl import distributed as processes
from rlhf.rl.alarms import Alarm, AlarmState, watch_evaluations, watch_update
from rlhf.rl.best_checkpoint import keep_candidate, remove_other_candidates, write_results
from rlhf.rl.checkpoint import (
    TrainerState,
    explain_write_errors,
    latest_checkpoint,
    load_checkpoint,
    needed_bytes,
    save_checkpoint,
)
from rlhf.rl.checks import check_finite, check_weights
from rlhf.rl.context import Demonstrations, Prompts, RLContext, make_context
from rlhf.rl.kl import steer_kl_coef
from rlhf.rl.models import load_models
from rlhf.rl.objective import Units, best_evaluation
from rlhf.rl.request import RLRequest
from rlhf.rl.update import run_update
from rlhf.rl.validation import validate, write_generations
from rlhf.text.lines import read_json_lines
from rlhf.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """Parts of a run that stay the same throughout."""

    context: RLContext
    validation: Prompts
    workspace: Workspace

    @property
    def config(self) -> RLConfig:
        """PPO's settings."""
        return self.context.config

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings of the run by name, as JSON. A folder counts by what is in it: a project may move."""
        compute = self.context.compute.model_dump(mode="json")
        of_compute = {f"compute.{name}": value for name, value in compute.items()}
        settings = self.config.model_dump(mode="json") | of_compute | {"seed": self.context.setup.seed}
        for source in settings["rewards"]:
            if source["path"] is not None and Path(source["path"]).is_dir():
                source["path"] = f"sha256:{folder_sha256(Path(source['path']))}"
        return settings

    def log(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Log metrics, once for all processes."""
        if processes.is_first():
            self.workspace.log_metrics(metrics, step)


def train(request: RLRequest, workspace: Workspace) -> None:
    """Run PPO in this process, which may be one of several that were started; see `rlhf.rl.stage.train_policy`."""
    context = start_stage(request.policy, request.setup, request.start / "policy")
    with processes.process_group(context.compute):
        _train(_prepare(context, request, workspace))


def _train(run: Run) -> None:
    config = run.config
    state = _resume(run)
    started = time.monotonic()
    while state.next_update < config.num_updates and state.stopped_because is None:
        state = _update(run, state)
    stopped_because = "finished" if state.next_update == config.num_updates else str(state.stopped_because)
    elapsed = time.monotonic() - started
    logger.info("PPO: %s after %d updates, %.0f s", stopped_because, state.next_update, elapsed)
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
    state = _log(run, state, outcome.metrics | speed, update + 1)
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
    if processes.is_first():
        start = time.monotonic()
        save_checkpoint(run.workspace.checkpoints, state, models, optimizers, run.settings)
        run.log({"policy/checkpoint_seconds": time.monotonic() - start}, state.next_update)
        remove_other_candidates(run.workspace.checkpoints, state.evaluations, run.config.kl_budget)


def _log(run: Run, state: TrainerState, metrics: Mapping[str, float], step: int) -> TrainerState:
    """Log metrics, and note them: a run that goes on from here logs them again, so that its curves are whole."""
    run.log(metrics, step)
    return replace(state, logged=[*state.logged, [step, dict(metrics)]])


def _watch(run: Run, state: TrainerState, metrics: Mapping[str, float]) -> TrainerState:
    """Look at an update's metrics; a fatal alarm or a spent KL budget is a reason to stop."""
    memory, alarms = watch_update(run.config.alarms, AlarmState(**state.alarms), metrics, state.next_update + 1)
    state = _alarmed(state, memory, alarms)
    if state.stopped_because is None and metrics["policy/kl_mean"] > run.config.kl_budget:
        state = replace(state, stopped_because="kl_budget")
    return state


def _alarmed(state: TrainerState, memory: AlarmState, alarms: Sequence[Alarm]) -> TrainerState:
    """Say which alarms went off, and note them; the first fatal one is why the run stops."""
    for alarm in alarms:
        logger.warning("alarm %s after update %d: %s", alarm.name, alarm.update, alarm.message)
    fatal = next((alarm.name for alarm in alarms if alarm.fatal), None)
    return replace(state, alarms=asdict(memory), stopped_because=state.stopped_because or fatal)


def _prepare(context: StageContext[RLConfig], request: RLRequest, workspace: Workspace) -> Run:
    config, tokenizer, data = context.config, context.tokenizer, request.data
    models = load_models(context, request.start, request.reward_models)
    check_room(workspace.checkpoints, needed_bytes(models), "PPO's checkpoints")
    prompts = _read_prompts(data / "prompts" / "train.jsonl")
    # Each once: two rows of one prompt are no independent witnesses of a gain.
    by_key = {prompt_key(prompt): prompt for prompt in _read_prompts(data / "prompts" / "validation.jsonl")}
    validation = list(by_key.values())[: config.num_validation_prompts]
    demonstrations = data / "demonstrations" / "train.jsonl"
    updates = make_context(
        context,
        models,
        Prompts(prompts, encode_prompts(tokenizer, prompts)),
        _read_demonstrations(demonstrations, tokenizer) if config.ptx_coef else None,
    )
    return Run(updates, Prompts(validation, encode_prompts(tokenizer, validation)), workspace)


def _read_prompts(path: Path) -> list[Conversation]:
    prompts = [row["prompt"] for row in read_json_lines(path)]
    if not prompts:
        raise DataError(
            f"{path.name}: there are no prompts in this split; give more prompts, or a larger share of them"
        )
    return prompts


def _read_demonstrations(path: Path, tokenizer: Any) -> Demonstrations:
    rows = list(read_json_lines(path))
    if not rows:
        raise DataError(f"{path.name}: there are no demonstrations for PPO-ptx; set rl.ptx_coef to 0, or give some")
    return encode_pairs(tokenizer, [row["prompt"] for row in rows], [row["completion"] for row in rows])


def _resume(run: Run) -> TrainerState:
    """Go on from the newest checkpoint, or evaluate the SFT policy and begin."""
    path = latest_checkpoint(run.workspace.checkpoints)
    processes.check_agreed("newest checkpoint", path.name if path else "none")
    if path is not None:
        logger.info("PPO goes on from %s", path.name)
        state = load_checkpoint(path, run.context.models, run.context.optimizers, run.settings)
        for step, metrics in state.logged:
            run.log(metrics, step)
        processes.wait_for_all()  # before the first one writes, and removes what the others read
        return state
    return _evaluate(run, TrainerState(0, run.config.kl_coef))


def _evaluate(run: Run, state: TrainerState) -> TrainerState:
    """Evaluate on validation prompts; a policy that is better than all before it is kept."""
    models = run.context.models
    with _diverging(run, state.next_update):
        units = Units.from_dict(state.units) if state.units else None
        evaluation, generations, units = validate(run.context, run.validation, state.next_update, units)
    logger.info(
        "update %d/%d: score %.3f, held-out score %.3f, KL %.2f, objective %.3f",
        evaluation.update,
        run.config.num_updates,
        evaluation.score,
        evaluation.held_out_score,
        evaluation.kl,
        evaluation.objective,
    )
    state = _log(run, state, evaluation.metrics(), state.next_update)
    evaluations = [*state.evaluations, asdict(evaluation)]
    if processes.is_first():
        with explain_write_errors("the generations of a held-out evaluation", run.workspace.checkpoints):
            write_generations(run.workspace.checkpoints, evaluation.update, generations)
        if best_evaluation(evaluations, run.config.kl_budget)["update"] == state.next_update:
            keep_candidate(run.workspace.checkpoints, evaluation.update, models.export_policy(), run.context.tokenizer)
            remove_other_candidates(run.workspace.checkpoints, evaluations, run.config.kl_budget)
    memory, alarms = watch_evaluations(run.config.alarms, AlarmState(**state.alarms), evaluations, run.config.kl_budget)
    return _alarmed(replace(state, evaluations=evaluations, units=asdict(units)), memory, alarms)


def _finish(run: Run, state: TrainerState, stopped_because: str) -> None:
    if state.evaluations[-1]["update"] != state.next_update:
        state = _evaluate(run, state)
    if processes.is_first():
        with explain_write_errors("PPO's output", run.workspace.checkpoints):
            write_results(run.workspace, state, stopped_because, run.config)
        best = best_evaluation(state.evaluations, run.config.kl_budget)
        run.log({"policy/chosen_update": best["update"], "policy/chosen_objective": best["objective"]}, None)
        run.log({"policy/num_alarms": len(state.alarms["raised"])}, None)
    processes.wait_for_all()


def _next_kl_coef(config: RLConfig, kl_coef: float, kl: float) -> float:
    if config.kl_target is None or config.kl_horizon is None:
        return kl_coef
    steering = {"target": config.kl_target, "horizon": config.kl_horizon, "largest_error": LARGEST_KL_ERROR}
    return steer_kl_coef(kl_coef, kl, config.rollout_size, **steering)

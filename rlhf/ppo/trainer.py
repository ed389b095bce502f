"""The PPO stage: from the SFT policy and two reward models to the checkpoint that held-out evidence prefers."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rlhf.compute import configure, give_back_freed_memory
from rlhf.config import LARGEST_KL_ERROR, PPOConfig, Setup, cannot_share
from rlhf.conversations import Conversation, encode_pairs, encode_prompts
from rlhf.disk import check_room
from rlhf.errors import ConfigError, DataError
from rlhf.hashing import folder_sha256
from rlhf.lines import read_json_lines
from rlhf.ppo import processes
from rlhf.ppo.alarms import Alarm, Memory, watch_evaluations, watch_update
from rlhf.ppo.candidates import best_evaluation, keep_candidate, remove_other_candidates, write_results
from rlhf.ppo.checkpoint import (
    TrainerState,
    latest_checkpoint,
    load_checkpoint,
    needed_bytes,
    save_checkpoint,
    writing,
)
from rlhf.ppo.checks import check_finite, check_weights, diverged
from rlhf.ppo.kl import AdaptiveKL
from rlhf.ppo.launch import train_in_processes
from rlhf.ppo.learner import Learner, make_learner, take_update
from rlhf.ppo.models import load_models
from rlhf.ppo.ptx import Demonstrations
from rlhf.ppo.rollout import Prompts
from rlhf.ppo.sources import Moments
from rlhf.ppo.validation import validate, write_generations
from rlhf.progress import report_progress
from rlhf.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What stays the same throughout a run."""

    learner: Learner
    validation: Prompts
    workspace: Workspace

    @property
    def config(self) -> PPOConfig:
        """PPO's settings."""
        return self.learner.learning.config

    @property
    def setup(self) -> Setup:
        """Seed, model and compute."""
        return self.learner.learning.setup

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings of the run by name, as JSON. A folder counts by what is in it: a project may move."""
        compute = self.setup.compute.model_dump(mode="json")
        of_compute = {f"compute.{name}": value for name, value in compute.items()}
        settings = self.config.model_dump(mode="json") | of_compute | {"seed": self.setup.seed}
        for source in settings["rewards"]:
            if source["path"] is not None and Path(source["path"]).is_dir():
                source["path"] = f"sha256:{folder_sha256(Path(source['path']))}"
        return settings

    def log(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Log metrics, once for all processes."""
        if processes.is_first():
            self.workspace.log_metrics(metrics, step)


def train_ppo(
    config: PPOConfig, setup: Setup, data: Path, start: Path, reward_models: Path, workspace: Workspace
) -> None:
    """Run PPO and leave the chosen policy, the evaluations and their generations in `workspace.output`.

    With `compute.num_processes` above 1 the work is done by as many processes, of which the first one writes. They are
    started here, unless `torchrun` or `accelerate launch` has started this very process as one of them.

    Args:
        config: PPO's settings.
        setup: seed, model and compute.
        data: the data stage's output.
        start: the SFT stage's output; its policy is also the reference.
        reward_models: the reward stage's output.
        workspace: a run that was killed goes on from `workspace.checkpoints`.

    Raises:
        TrainingDivergedError: a loss, a logit or a weight that is not finite.
        StartError: sampling, KL or ratio is wrong at the start.
        DataError: there are no prompts.
        ConfigError: processes or threads cannot share the work as they are told to, or more or fewer were started; a
            reward source that is not there.
        ModelError: a model cannot be loaded, or not in the role that `config.sharing` gives it.
        RewardSourceError: a reward function raised, or its scores are not one finite number a response.
        CheckpointError: a checkpoint cannot be written, or is of another configuration.
        ArtifactMismatchError: a checkpoint is not what was written.
        DiskSpaceError: there is no room for the checkpoints.
        ProcessesError: a process died, or they no longer hold the same weights.
    """
    if reason := cannot_share(config, setup.compute):
        raise ConfigError(reason)
    if setup.compute.num_processes > 1 and processes.num_started() == 1:
        train_in_processes(config, setup, data, start, reward_models, workspace)
        return
    configure(setup.compute)
    with processes.joined(setup.compute):
        _train(_prepare(config, setup, data, start, reward_models, workspace))


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
    config, update, begun = run.config, state.next_update, time.monotonic()
    moments = {name: Moments(**values) for name, values in state.moments.items()}  # type: ignore[arg-type]
    with _diverging(run, update + 1):
        taken = take_update(run.learner, update, state.kl_coef, moments)
    speed = {"ppo/episodes_per_second": config.rollout_size / (time.monotonic() - begun)}
    check_finite(taken.metrics, update + 1, run.workspace.checkpoints)
    check_weights(run.learner.learning.models, update + 1, run.workspace.checkpoints)
    state = _log(run, state, taken.metrics | speed, update + 1)
    if processes.is_first():
        report_progress("ppo", update + 1, config.num_updates)
    state = _watch(run, state, taken.metrics)
    state = replace(
        state,
        next_update=update + 1,
        kl_coef=_next_kl_coef(config, state.kl_coef, taken.metrics["ppo/kl_mean"]),
        moments={name: asdict(values) for name, values in taken.rollout.moments.items()},
    )
    if state.next_update % config.evaluate_every == 0 or state.next_update == config.num_updates:
        state = _evaluate(run, state)
    if state.next_update % config.checkpoint_every == 0:
        _save(run, state)
        give_back_freed_memory()
    return state


@contextmanager
def _diverging(run: Run, update: int) -> Iterator[None]:
    """Say of numbers that are no longer finite when that was, and where the last good checkpoint is."""
    try:
        yield
    except FloatingPointError as error:
        raise diverged(update, str(error), run.workspace.checkpoints) from error


def _save(run: Run, state: TrainerState) -> None:
    models, optimizers = run.learner.learning.models, run.learner.learning.optimizers
    processes.check_alike([*models.policy_parameters.values(), *models.value_parameters.values()])
    if processes.is_first():
        begun = time.monotonic()
        save_checkpoint(run.workspace.checkpoints, state, models, optimizers, run.settings)
        run.log({"ppo/checkpoint_seconds": time.monotonic() - begun}, state.next_update)
        remove_other_candidates(run.workspace.checkpoints, state.evaluations)


def _log(run: Run, state: TrainerState, metrics: Mapping[str, float], step: int) -> TrainerState:
    """Log metrics, and note them: whoever goes on from here logs them again, so that its curves are whole."""
    run.log(metrics, step)
    return replace(state, logged=[*state.logged, [step, dict(metrics)]])


def _watch(run: Run, state: TrainerState, metrics: Mapping[str, float]) -> TrainerState:
    """Look at an update's metrics; a fatal alarm or a spent KL budget is a reason to stop."""
    memory, alarms = watch_update(run.config.alarms, Memory(**state.alarms), metrics, state.next_update + 1)
    state = _alarmed(state, memory, alarms)
    if state.stopped_because is None and metrics["ppo/kl_mean"] > run.config.kl_budget:
        state = replace(state, stopped_because="kl_budget")
    return state


def _alarmed(state: TrainerState, memory: Memory, alarms: Sequence[Alarm]) -> TrainerState:
    """Say which alarms went off, and note them; the first fatal one is why the run stops."""
    for alarm in alarms:
        logger.warning("alarm %s after update %d: %s", alarm.name, alarm.update, alarm.message)
    fatal = next((alarm.name for alarm in alarms if alarm.fatal), None)
    return replace(state, alarms=asdict(memory), stopped_because=state.stopped_because or fatal)


def _prepare(
    config: PPOConfig, setup: Setup, data: Path, start: Path, reward_models: Path, workspace: Workspace
) -> Run:
    models = load_models(config, setup, start, reward_models)
    check_room(workspace.checkpoints, needed_bytes(models), "PPO's checkpoints")
    tokenizer = models.tokenizer
    prompts = _read_prompts(data / "prompts" / "train.jsonl")
    validation = _read_prompts(data / "prompts" / "validation.jsonl")[: config.num_validation_prompts]
    learner = make_learner(
        config,
        setup,
        models,
        Prompts(prompts, encode_prompts(tokenizer, prompts)),
        _read_demonstrations(data / "demonstrations" / "train.jsonl", tokenizer) if config.ptx_coef else None,
    )
    return Run(learner, Prompts(validation, encode_prompts(tokenizer, validation)), workspace)


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
        raise DataError(f"{path.name}: there are no demonstrations for PPO-ptx; set ppo.ptx_coef to 0, or give some")
    pairs = encode_pairs(tokenizer, [row["prompt"] for row in rows], [row["completion"] for row in rows])
    return Demonstrations(pairs, tokenizer.pad_token_id)


def _resume(run: Run) -> TrainerState:
    """Go on from the newest checkpoint, or evaluate the SFT policy and begin."""
    path = latest_checkpoint(run.workspace.checkpoints)
    processes.check_agreed("newest checkpoint", path.name if path else "none")
    if path is not None:
        logger.info("PPO goes on from %s", path.name)
        learning = run.learner.learning
        state = load_checkpoint(path, learning.models, learning.optimizers, run.settings)
        for step, metrics in state.logged:
            run.log(metrics, step)
        processes.wait_for_all()  # before the first one writes, and removes what the others read
        return state
    return _evaluate(run, TrainerState(0, run.config.kl_coef))


def _evaluate(run: Run, state: TrainerState) -> TrainerState:
    """Evaluate on validation prompts; a policy that is better than all before it is kept."""
    models = run.learner.learning.models
    with _diverging(run, state.next_update):
        evaluation, generations = validate(run.config, run.setup, models, run.validation, state.next_update)
    logger.info(
        "update %d/%d: score %.3f, selection score %.3f, KL %.2f, objective %.3f",
        evaluation.update,
        run.config.num_updates,
        evaluation.score,
        evaluation.selection_score,
        evaluation.kl,
        evaluation.objective,
    )
    state = _log(run, state, evaluation.metrics(), state.next_update)
    evaluations = [*state.evaluations, asdict(evaluation)]
    if processes.is_first():
        with writing("the generations of a held-out evaluation", run.workspace.checkpoints):
            write_generations(run.workspace.checkpoints, evaluation.update, generations)
        if best_evaluation(evaluations)["update"] == state.next_update:
            keep_candidate(run.workspace.checkpoints, evaluation.update, models.export_policy(), models.tokenizer)
            remove_other_candidates(run.workspace.checkpoints, evaluations)
    memory, alarms = watch_evaluations(run.config.alarms, Memory(**state.alarms), evaluations)
    return _alarmed(replace(state, evaluations=evaluations), memory, alarms)


def _finish(run: Run, state: TrainerState, stopped_because: str) -> None:
    if state.evaluations[-1]["update"] != state.next_update:
        state = _evaluate(run, state)
    if processes.is_first():
        with writing("PPO's output", run.workspace.checkpoints):
            write_results(run.workspace, state, stopped_because, run.config.kl_budget)
        best = best_evaluation(state.evaluations)
        run.log({"ppo/chosen_update": best["update"], "ppo/chosen_objective": best["objective"]}, None)
        run.log({"ppo/num_alarms": len(state.alarms["raised"])}, None)
    processes.wait_for_all()


def _next_kl_coef(config: PPOConfig, kl_coef: float, kl: float) -> float:
    if config.kl_target is None or config.kl_horizon is None:
        return kl_coef
    controller = AdaptiveKL(config.kl_target, config.kl_horizon, LARGEST_KL_ERROR)
    return controller.next_coef(kl_coef, kl, config.rollout_size)

"""The PPO stage: from the SFT policy and two reward models to the checkpoint that held-out evidence prefers."""

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf.compute import configure, seeded
from rlhf.config import PPOConfig, Setup
from rlhf.conversations import Conversation, encode_prompts
from rlhf.errors import DataError
from rlhf.lora import add_adapters, merged
from rlhf.models import load_policy, load_reward_model, load_tokenizer, save_model
from rlhf.ppo.checkpoint import TrainerState, latest_checkpoint, load_checkpoint, publish, save_checkpoint
from rlhf.ppo.checks import check_finite, check_kl_starts_at_zero, check_ratio_starts_at_one, diverged, find_flags
from rlhf.ppo.kl import AdaptiveKL, kl_k3, response_kl
from rlhf.ppo.loss import explained_variance
from rlhf.ppo.rollout import Models, Rollout, collect_rollout
from rlhf.ppo.update import MinibatchStatistics, Optimizers, learn, make_optimizers, set_learning_rates
from rlhf.ppo.validation import Evaluation, ValidationPrompts, validate, write_generations
from rlhf.ppo.value_model import start_value_model
from rlhf.progress import report_progress
from rlhf.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What stays the same throughout a run."""

    config: PPOConfig
    setup: Setup
    models: Models
    optimizers: Optimizers
    prompts: Sequence[Sequence[int]]
    validation: ValidationPrompts
    workspace: Workspace

    @property
    def candidates(self) -> Path:
        """Where the policies that were best at some time are kept."""
        return self.workspace.checkpoints / "candidates"

    @property
    def generations(self) -> Path:
        """Where the validation generations are kept until the run is done."""
        return self.workspace.checkpoints / "generations"


def train_ppo(
    config: PPOConfig, setup: Setup, data: Path, start: Path, reward_models: Path, workspace: Workspace
) -> None:
    """Run PPO and leave the chosen policy, the evaluations and their generations in `workspace.output`.

    Args:
        config: PPO's settings.
        setup: seed, model and compute.
        data: the data stage's output.
        start: the SFT stage's output; its policy is also the reference.
        reward_models: the reward stage's output.
        workspace: a run that was killed goes on from `workspace.checkpoints`.

    Raises:
        TrainingDivergedError: a loss that is not finite.
        StartError: KL or ratio is wrong at the start.
        DataError: there are no prompts.
    """
    run = _prepare(config, setup, data, start, reward_models, workspace)
    state = _resume(run)
    started = time.monotonic()
    stopped_because = "finished"
    while state.next_update < config.num_updates:
        state, stop = _update(run, state)
        if stop is not None:
            stopped_because = stop
            break
    elapsed = time.monotonic() - started
    logger.info("PPO: %s after %d updates, %.0f s", stopped_because, state.next_update, elapsed)
    _finish(run, state, stopped_because)


def _update(run: Run, state: TrainerState) -> tuple[TrainerState, str | None]:
    """One rollout and what is learned from it; returns the new state, and why to stop if that is so."""
    config, update, begun = run.config, state.next_update, time.monotonic()
    share = set_learning_rates(run.optimizers, config, update)
    try:
        rollout = collect_rollout(config, run.setup, run.models, run.prompts, update, state.kl_coef)
    except FloatingPointError as error:
        raise diverged(update + 1, str(error), run.workspace.checkpoints) from error
    if update == 0:
        check_kl_starts_at_zero(rollout, run.setup.compute.dtype)
    statistics = learn(config, run.setup, run.models, run.optimizers, rollout, update)
    if update == config.num_critic_warmup_updates:
        check_ratio_starts_at_one(statistics[0], run.setup.compute.dtype)
    metrics = _metrics(rollout, statistics) | {
        "ppo/kl_coef": state.kl_coef,
        "ppo/learning_rate": config.learning_rate * share,
        "ppo/episodes_per_second": config.rollout_size / (time.monotonic() - begun),
    }
    check_finite(metrics, update + 1, run.workspace.checkpoints)
    run.workspace.log_metrics(metrics, update + 1)
    report_progress("ppo", update + 1, config.num_updates)
    state = TrainerState(update + 1, _next_kl_coef(config, state.kl_coef, metrics["ppo/kl_mean"]), state.evaluations)
    if state.next_update % config.evaluate_every == 0 or state.next_update == config.num_updates:
        state = _evaluate(run, state)
    stop = "kl_budget" if metrics["ppo/kl_mean"] > config.kl_budget else None
    if state.next_update % config.checkpoint_every == 0:
        save_checkpoint(run.workspace.checkpoints, state, run.models, run.optimizers)
        _remove_other_candidates(run, state)
    return state, stop


def _prepare(
    config: PPOConfig, setup: Setup, data: Path, start: Path, reward_models: Path, workspace: Workspace
) -> Run:
    configure(setup.compute)
    models = _load_models(config, setup, start, reward_models)
    prompts = _read_prompts(data / "prompts" / "train.jsonl")
    validation = _read_prompts(data / "prompts" / "validation.jsonl")[: config.num_validation_prompts]
    return Run(
        config,
        setup,
        models,
        make_optimizers(config, models),
        encode_prompts(models.tokenizer, prompts),
        ValidationPrompts(validation, encode_prompts(models.tokenizer, validation)),
        workspace,
    )


def _load_models(config: PPOConfig, setup: Setup, start: Path, reward_models: Path) -> Models:
    compute = setup.compute
    policy = load_policy(start / "policy", compute)
    if config.lora is not None:
        torch.manual_seed(seeded(setup.seed, "adapters"))
        policy = add_adapters(policy, config.lora, "CAUSAL_LM")
    names = ("reward_model", "selection_reward_model")
    reward_model, selection_reward_model = (load_reward_model(reward_models / name, compute) for name in names)
    return Models(
        tokenizer=load_tokenizer(start / "policy"),
        policy=policy,
        ref_policy=load_policy(start / "policy", compute).requires_grad_(False),
        reward_model=reward_model.requires_grad_(False),
        selection_reward_model=selection_reward_model.requires_grad_(False),
        value_model=start_value_model(load_reward_model(reward_models / "reward_model", compute)),
    )


def _read_prompts(path: Path) -> list[Conversation]:
    with path.open(encoding="utf-8") as file:
        prompts = [json.loads(line)["prompt"] for line in file]
    if not prompts:
        raise DataError(
            f"{path.name}: there are no prompts in this split; give more prompts, or a larger share of them"
        )
    return prompts


def _resume(run: Run) -> TrainerState:
    """Go on from the newest checkpoint, or evaluate the SFT policy and begin."""
    path = latest_checkpoint(run.workspace.checkpoints)
    if path is not None:
        logger.info("PPO goes on from %s", path.name)
        return load_checkpoint(path, run.models, run.optimizers)
    return _evaluate(run, TrainerState(0, run.config.kl_coef, []))


def _evaluate(run: Run, state: TrainerState) -> TrainerState:
    """Evaluate on validation prompts; a policy that is better than all before it is kept."""
    evaluation, generations = validate(run.config, run.setup, run.models, run.validation, state.next_update)
    write_generations(run.generations / f"update_{state.next_update:04d}.jsonl", generations)
    run.workspace.log_metrics(evaluation.metrics(), state.next_update)
    logger.info(
        "update %d/%d: score %.3f, selection score %.3f, KL %.2f, objective %.3f",
        evaluation.update,
        run.config.num_updates,
        evaluation.score,
        evaluation.selection_score,
        evaluation.kl,
        evaluation.objective,
    )
    state = TrainerState(state.next_update, state.kl_coef, [*state.evaluations, asdict(evaluation)])
    if _best(state)["update"] == state.next_update:
        _keep_candidate(run, evaluation)
    return state


def _best(state: TrainerState) -> dict[str, Any]:
    return max(state.evaluations, key=lambda evaluation: (evaluation["objective"], -evaluation["update"]))


def _keep_candidate(run: Run, evaluation: Evaluation) -> None:
    final = run.candidates / f"update_{evaluation.update:04d}"
    temporary = final.with_suffix(".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    save_model(merged(run.models.policy), run.models.tokenizer, temporary)
    publish(temporary, final)


def _remove_other_candidates(run: Run, state: TrainerState) -> None:
    """Keep the best policy only, once a checkpoint says which it is."""
    for folder in run.candidates.iterdir():
        if folder.name != f"update_{_best(state)['update']:04d}":
            shutil.rmtree(folder)


def _finish(run: Run, state: TrainerState, stopped_because: str) -> None:
    best, output = _best(state), run.workspace.output
    if state.evaluations[-1]["update"] != state.next_update:
        state = _evaluate(run, state)
        best = _best(state)
    shutil.copytree(run.candidates / f"update_{best['update']:04d}", output / "policy", dirs_exist_ok=True)
    (output / "generations").mkdir(parents=True, exist_ok=True)
    lines = []
    for evaluation in state.evaluations:
        name = f"update_{evaluation['update']:04d}.jsonl"
        shutil.copy(run.generations / name, output / "generations" / name)
        lines.append(json.dumps(evaluation | {"chosen": evaluation is best or evaluation == best}) + "\n")
    (output / "evaluations.jsonl").write_text("".join(lines))
    summary = {
        "num_updates": state.next_update,
        "stopped_because": stopped_because,
        "chosen_update": best["update"],
        "chosen_objective": best["objective"],
        "flags": find_flags(state.evaluations, best, stopped_because, run.config.kl_budget),
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    run.workspace.log_metrics({"ppo/chosen_update": best["update"], "ppo/chosen_objective": best["objective"]}, None)


def _metrics(rollout: Rollout, statistics: Sequence[MinibatchStatistics]) -> dict[str, float]:
    mask = rollout.batch.response_mask
    kl = response_kl(rollout.kl, mask)
    means = {
        f"ppo/{name}": sum(s.values[name] for s in statistics) / len(statistics)
        for name in statistics[0].values
        if name != "ratio_error"
    }
    if "ratio_error" in statistics[0].values:
        means["ppo/ratio_error"] = statistics[0].values["ratio_error"]
    return means | {
        "ppo/score_mean": float(rollout.scores.mean()),
        "ppo/score_std": float(rollout.scores.std()),
        "ppo/kl_mean": float(kl.mean()),
        "ppo/kl_k3_mean": float(response_kl(kl_k3(rollout.old_logprobs, rollout.ref_logprobs), mask).mean()),
        "ppo/reward_mean": float(rollout.rewards.sum(1).mean()),
        "ppo/response_tokens_mean": float(mask.sum(1).float().mean()),
        "ppo/eos_rate": float(rollout.ended.float().mean()),
        "ppo/explained_variance": explained_variance(rollout.values, rollout.returns, mask),
    }


def _next_kl_coef(config: PPOConfig, kl_coef: float, kl: float) -> float:
    if config.kl_target is None or config.kl_horizon is None:
        return kl_coef
    return AdaptiveKL(config.kl_target, config.kl_horizon).next_coef(kl_coef, kl, config.rollout_size)

"""Checks of a PPO run, and remarks on a finished run for the readers of its card."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rlhf.config.rl import AlarmsConfig, RLConfig
from rlhf.errors import StartError, TrainingDivergedError
from rlhf.rl.checkpoint import latest_checkpoint
from rlhf.rl.models import Models
from rlhf.rl.objective import best_evaluation, paired_gain
from rlhf.rl.optimization import MinibatchStatistics
from rlhf.rl.rollout import Rollout

# What max |ratio - 1| may be on the first minibatch, where rollout and training compute the same numbers in
# different batches. In bf16 a product's rounding depends on the shape that it is computed in.
RATIO_TOLERANCE = {"fp32": 1e-4, "bf16": 0.1}
SAMPLING_TOLERANCE = {"fp32": 1e-3, "bf16": 0.05}
KL_TOLERANCE = {"fp32": 1e-4, "bf16": 0.05}


def check_finite(metrics: Mapping[str, float], step: int, checkpoints: Path) -> None:
    """Stop where a number is not finite.

    Raises:
        TrainingDivergedError: naming the metrics and the last good checkpoint.
    """
    broken = sorted(name for name, value in metrics.items() if not math.isfinite(value))
    if broken:
        raise TrainingDivergedError(step, f"{', '.join(broken)} not finite", latest_checkpoint(checkpoints))


def check_weights(models: Models, step: int, checkpoints: Path) -> None:
    """Stop before what the last optimizer step broke is evaluated or saved: metrics are taken before that step.

    Raises:
        TrainingDivergedError: naming a weight and the last good checkpoint.
    """
    for name, parameter in (*models.policy_parameters.items(), *models.value_parameters.items()):
        if not torch.isfinite(parameter).all():
            raise TrainingDivergedError(step, f"the weight {name} is not finite", latest_checkpoint(checkpoints))


def check_kl_starts_at_zero(rollout: Rollout, alarms: AlarmsConfig, dtype: str) -> None:
    """Policy and reference are the same before the first update.

    Raises:
        StartError: they are not.
    """
    largest, allowed = float(rollout.kl.abs().max()), alarms.start_kl or KL_TOLERANCE[dtype]
    if not largest <= allowed:
        raise StartError(
            "start_kl",
            f"the KL to the SFT policy is not 0 before the first update: {largest:.3g} nats at a token, "
            f"{allowed} allowed; policy and reference are not the same model",
        )


def check_sampling_is_scored(error: float, alarms: AlarmsConfig, dtype: str) -> None:
    """Tokens are sampled from the distribution by which they are scored (`rlhf.rl.rollout.sampling_error`).

    Raises:
        StartError: they are not.
    """
    allowed = alarms.start_sampling or SAMPLING_TOLERANCE[dtype]
    if not error <= allowed:
        raise StartError(
            "start_sampling",
            "before the first update tokens are sampled from another distribution than they are scored by: a random "
            f"number lies {error:.3g} outside of its token's share, {allowed} allowed; the model computes something "
            "else when it decodes with its cache than in one pass over the same tokens",
        )


def check_ratio_starts_at_one(first_minibatch: MinibatchStatistics, alarms: AlarmsConfig, dtype: str) -> None:
    """The rollout's scoring pass and training compute the same log-probabilities.

    Raises:
        StartError: they do not.
    """
    error, allowed = first_minibatch["ratio_error"], alarms.start_ratio or RATIO_TOLERANCE[dtype]
    if not error <= allowed:
        raise StartError(
            "start_ratio",
            f"the probability ratio is not 1 on the first minibatch: off by {error:.3g}, {allowed} allowed; "
            "the rollout's scoring pass and training do not compute the same log-probabilities",
        )


def run_flags(
    config: RLConfig,
    evaluations: Sequence[Mapping[str, Any]],
    stopped_because: str,
    alarms: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Sentences about a run that a reader of its card should see; none where all went well.

    Args:
        config: PPO's settings.
        evaluations: the held-out ones, in order.
        stopped_because: why the run ended.
        alarms: those that went off, in order.
    """
    best = best_evaluation(evaluations, config.kl_budget)
    flags = []
    if stopped_because == "kl_budget":
        flags.append(
            f"Training was stopped because the KL to the SFT policy passed {config.kl_budget:g} nats per response."
        )
    if best["update"] == 0:
        flags.append(_why_none_was_chosen(config, evaluations))
    if not any(source.kind == "trained" for source in config.rewards):
        flags.append(
            "The checkpoint was chosen by the score that PPO climbs itself, on prompts that it was not trained on: "
            "no source is the trained reward model, which the selection reward model could stand for. Whether the "
            "score is what is wanted, this cannot show."
        )
    for alarm in alarms:
        ended = " It ended the run." if alarm["name"] == stopped_because else ""
        recovered = ""
        if alarm["name"] == "overoptimization" and best["update"] > alarm["update"]:
            recovered = (
                f" The run recovered: held-out evidence was best after update {best['update']}, which was chosen."
            )
        flags.append(f"Alarm `{alarm['name']}` after update {alarm['update']}: {alarm['message']}.{ended}{recovered}")
    return flags


def _why_none_was_chosen(config: RLConfig, evaluations: Sequence[Mapping[str, Any]]) -> str:
    """No checkpoint was chosen, and how near the best came."""
    kept = "so the SFT policy was kept."
    within = [evaluation for evaluation in evaluations[1:] if evaluation["kl"] <= config.kl_budget]
    if not within:
        beyond = f"Every checkpoint was beyond the KL budget of {config.kl_budget:g} nats per response on held-out"
        return f"{beyond} prompts, {kept} Raise rl.kl_coef, lower the learning rate, or evaluate more often."
    best = max(within, key=lambda evaluation: evaluation["objective"])
    if len(best["objectives"]) < 2:
        return (
            f"With one validation prompt no checkpoint can be shown to be better than the SFT policy, {kept} Raise "
            f"rl.num_validation_prompts."
        )
    gain = paired_gain(best, evaluations[0])
    if gain.mean > 0:
        return (
            f"No checkpoint was better than the SFT policy on held-out evidence by more than the standard error "
            f"(update {best['update']}: {gain.mean:+.3f}, standard error {gain.standard_error:.3f}), {kept}"
        )
    return f"No checkpoint was better than the SFT policy on held-out evidence, {kept}"

"""What must hold in a PPO run, and what people should be told of one that ended."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rlhf.config import AlarmsConfig
from rlhf.errors import StartError, TrainingDivergedError
from rlhf.ppo.checkpoint import latest_checkpoint
from rlhf.ppo.models import Models
from rlhf.ppo.rollout import Rollout
from rlhf.ppo.update import MinibatchStatistics

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
        raise diverged(step, f"{', '.join(broken)} not finite", checkpoints)


def check_weights(models: Models, step: int, checkpoints: Path) -> None:
    """Stop before what the last optimizer step broke is evaluated or saved: metrics are taken before that step.

    Raises:
        TrainingDivergedError: naming a weight and the last good checkpoint.
    """
    for name, parameter in (*models.policy_parameters.items(), *models.value_parameters.items()):
        if not torch.isfinite(parameter).all():
            raise diverged(step, f"the weight {name} is not finite", checkpoints)


def diverged(step: int, what: str, checkpoints: Path) -> TrainingDivergedError:
    """The error that names the last good checkpoint."""
    checkpoint = latest_checkpoint(checkpoints)
    return TrainingDivergedError(step, what, str(checkpoint) if checkpoint else None)


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
    """Tokens are sampled from the distribution by which they are scored (`rlhf.ppo.rollout.sampling_error`).

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
    error, allowed = first_minibatch.values["ratio_error"], alarms.start_ratio or RATIO_TOLERANCE[dtype]
    if not error <= allowed:
        raise StartError(
            "start_ratio",
            f"the probability ratio is not 1 on the first minibatch: off by {error:.3g}, {allowed} allowed; "
            "the rollout's scoring pass and training do not compute the same log-probabilities",
        )


def find_flags(
    best: Mapping[str, Any], stopped_because: str, kl_budget: float, alarms: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Sentences about a run that a reader of its card should see; none where all went well.

    Args:
        best: the held-out evaluation whose checkpoint was chosen.
        stopped_because: why the run ended.
        kl_budget: nats a response.
        alarms: those that went off, in order.
    """
    flags = []
    if stopped_because == "kl_budget":
        flags.append(f"Training was stopped because the KL to the SFT policy passed {kl_budget:g} nats a response.")
    if best["update"] == 0:
        flags.append("No checkpoint was better than the SFT policy on held-out evidence, so the SFT policy was kept.")
    for alarm in alarms:
        ended = " It ended the run." if alarm["name"] == stopped_because else ""
        flags.append(f"Alarm `{alarm['name']}` after update {alarm['update']}: {alarm['message']}.{ended}")
    return flags

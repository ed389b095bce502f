"""Checks of a run: what must hold at its start, and numbers that must be finite."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from rlhf.config.rl import AlarmsConfig
from rlhf.errors import StartError, TrainingDivergedError
from rlhf.policy import distributed as processes
from rlhf.policy.sharding import local_part
from rlhf.rl.checkpoint import latest_checkpoint
from rlhf.rl.models import Models
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
    named = [*models.policy_parameters.items(), *models.value_parameters.items()]
    broken = torch.stack([~torch.isfinite(local_part(parameter)).all() for _, parameter in named])
    for (name, _), is_broken in zip(named, processes.all_reduce_max(broken.int()).tolist(), strict=True):
        if is_broken:
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

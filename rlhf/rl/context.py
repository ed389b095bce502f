"""Context of all updates of a run: settings, models, optimizers, prompts and demonstrations."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from rlhf.config.rl import RLConfig
from rlhf.modeling.context import StageContext
from rlhf.policy.context import PolicyContext, Prompts
from rlhf.rl.algorithms import ALGORITHMS, Algorithm
from rlhf.rl.models import Models

ADAM_EPS = 1e-5

Demonstrations = Sequence[tuple[list[int], list[int]]]
"""Prompts and completions as token ids."""


@dataclass(frozen=True)
class Optimizers:
    """AdamW for the policy, and for the value model where there is one."""

    policy: Optimizer
    value: Optimizer | None


@dataclass(frozen=True)
class RLContext(PolicyContext[RLConfig]):
    """The stage's context with what updates need.

    Attributes:
        models: those that learn, and those that do not.
        algorithm: the method.
        optimizers: of the models that learn.
        demonstrations: those of PPO-ptx, where `ptx_coef` is set.
    """

    models: Models
    algorithm: Algorithm
    optimizers: Optimizers
    demonstrations: Demonstrations | None = None


def make_context(
    stage: StageContext[RLConfig],
    models: Models,
    prompts: Prompts,
    demonstrations: Demonstrations | None = None,
    method: str = "ppo",
) -> RLContext:
    """The context of updates, with optimizers that have not taken a step."""
    optimizers = make_optimizers(stage.config, models)
    return RLContext(
        stage.config, stage.setup, stage.tokenizer, models, prompts, ALGORITHMS[method], optimizers, demonstrations
    )


def make_optimizers(config: RLConfig, models: Models) -> Optimizers:
    """Optimizers over whatever of the two models is trained."""
    value = list(models.value_parameters.values())
    return Optimizers(
        _adamw(list(models.policy_parameters.values()), config.learning_rate),
        _adamw(value, config.value_learning_rate) if value else None,
    )


def _adamw(parameters: Sequence[Parameter], learning_rate: float) -> Optimizer:
    optimizer = AdamW(parameters, lr=learning_rate, eps=ADAM_EPS, weight_decay=0.0, fused=True)
    for parameter in parameters:
        # Made before the first pass, what lives long does not lie scattered among what comes and goes.
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
    return optimizer

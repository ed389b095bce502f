"""Context of all updates of a PPO run: settings, models, optimizers, prompts and demonstrations."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from rlhf.config.rl import RLConfig
from rlhf.modeling.context import StageContext
from rlhf.modeling.conversations import Conversation
from rlhf.rl.models import Models

ADAM_EPS = 1e-5

Demonstrations = Sequence[tuple[list[int], list[int]]]
"""Prompts and completions as token ids."""


@dataclass(frozen=True)
class Prompts:
    """Prompts as they are written and as token ids."""

    conversations: Sequence[Conversation]
    ids: Sequence[Sequence[int]]

    def pick(self, index: Sequence[int]) -> "Prompts":
        """The prompts that `index` names, in its order."""
        return Prompts([self.conversations[i] for i in index], [self.ids[i] for i in index])


@dataclass(frozen=True)
class Optimizers:
    """AdamW for the policy and for the value model."""

    policy: Optimizer
    value: Optimizer


@dataclass(frozen=True)
class RLContext(StageContext[RLConfig]):
    """The stage's context with what updates need.

    Attributes:
        models: those that learn, and those that do not.
        optimizers: of those that learn.
        prompts: every training prompt.
        demonstrations: those of PPO-ptx, where `ptx_coef` is set.
    """

    models: Models
    optimizers: Optimizers
    prompts: Prompts
    demonstrations: Demonstrations | None = None


def make_context(
    stage: StageContext[RLConfig], models: Models, prompts: Prompts, demonstrations: Demonstrations | None = None
) -> RLContext:
    """The context of updates, with optimizers that have not taken a step."""
    optimizers = make_optimizers(stage.config, models)
    return RLContext(stage.config, stage.setup, stage.tokenizer, models, optimizers, prompts, demonstrations)


def make_optimizers(config: RLConfig, models: Models) -> Optimizers:
    """Optimizers over whatever of the two models is trained."""
    return Optimizers(
        _adamw(list(models.policy_parameters.values()), config.learning_rate),
        _adamw(list(models.value_parameters.values()), config.value_learning_rate),
    )


def _adamw(parameters: Sequence[Parameter], learning_rate: float) -> Optimizer:
    optimizer = AdamW(parameters, lr=learning_rate, eps=ADAM_EPS, weight_decay=0.0, fused=True)
    for parameter in parameters:
        # Made before the first pass, what lives long does not lie scattered among what comes and goes.
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
    return optimizer

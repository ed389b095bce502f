"""Generalized advantage estimation over the tokens of a response.

Shapes: B responses, R token columns. A response's last kept token ends its episode: what follows is worth nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.rl.masking import masked_whiten


@dataclass(frozen=True)
class Advantages:
    """Estimates for every response token, 0 elsewhere.

    Attributes:
        advantages: whitened over the mask of the whole rollout, [B, R].
        returns: targets of the value model, advantages before whitening + values, [B, R].
    """

    advantages: Tensor
    returns: Tensor


def estimate_advantages(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, gae_lambda: float
) -> Advantages:
    """Estimate advantages and returns.

    Args:
        rewards: a token's reward, after the KL penalty, [B, R].
        values: value of the state before each token, [B, R].
        response_mask: True on response tokens; each row keeps a prefix of its columns, [B, R].
        gamma: discount.
        gae_lambda: 1 is Monte Carlo, 0 is one-step temporal difference.

    Source:
        Schulman et al., 1506.02438, equation 16, computed backwards.
    """
    rewards, values = rewards.masked_fill(~response_mask, 0.0), values.masked_fill(~response_mask, 0.0)
    advantages = torch.zeros_like(values)
    following = torch.zeros_like(values[:, 0])
    next_value = torch.zeros_like(following)
    for column in reversed(range(values.shape[1])):
        delta = rewards[:, column] + gamma * next_value - values[:, column]
        following = delta + gamma * gae_lambda * following
        advantages[:, column] = following
        next_value = values[:, column]
    # Columns behind a row's end have reward and value 0, so they add nothing to the columns before.
    return Advantages(masked_whiten(advantages, response_mask), (advantages + values).masked_fill(~response_mask, 0.0))

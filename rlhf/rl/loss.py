"""The losses as sums over tokens, to be divided by the tokens, or the responses, of the whole minibatch.

Shapes: B responses, R token columns. Sums, because a minibatch may be computed in micro-batches of unequal numbers of
tokens, and its loss must not depend on how it was cut.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClippedLoss:
    """A clipped loss of some rows.

    Attributes:
        loss: sum over the kept tokens, a scalar that has a gradient.
        num_clipped: tokens at which the clipped term decided, a scalar.
    """

    loss: Tensor
    num_clipped: Tensor


@dataclass(frozen=True)
class PolicyLoss(ClippedLoss):
    """The policy's, with `approx_kl`: sum of k3, rollout policy against current policy, nats, a scalar."""

    approx_kl: Tensor


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    clip_range: float,
    row_weights: Tensor | None = None,
) -> PolicyLoss:
    """Clipped surrogate objective, negated.

    Args:
        logprobs: of the current policy, [B, R].
        old_logprobs: of the policy that sampled, [B, R].
        advantages: [B, R].
        response_mask: True = keep, [B, R].
        clip_range: epsilon.
        row_weights: weights of the responses, [B]; None: 1 for each.

    Source:
        Schulman et al., 1707.06347, equation 7.
    """
    log_ratio = (logprobs - old_logprobs).masked_fill(~response_mask, 0.0)
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    losses = torch.maximum(unclipped, clipped)
    if row_weights is not None:
        losses = losses * row_weights[:, None]
    loss = losses.masked_fill(~response_mask, 0.0).sum()
    num_clipped = ((clipped > unclipped) & response_mask).sum()
    approx_kl = (ratio - 1.0 - log_ratio).detach().sum()
    return PolicyLoss(loss, num_clipped, approx_kl)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, response_mask: Tensor, clip_range: float
) -> ClippedLoss:
    """0.5 * max(unclipped^2, clipped^2), the clipped value staying near the rollout's.

    Args:
        values: of the current value model, [B, R].
        old_values: of the rollout, [B, R].
        returns: targets, [B, R].
        response_mask: True = keep, [B, R].
        clip_range: distance from the old values.

    Source:
        "The N+ implementation details of RLHF with PPO", 2403.17031, value function loss clipping.
    """
    change = (values - old_values).clamp(-clip_range, clip_range)
    # Where nothing is clipped the sum would still differ from the value by rounding, and be counted as clipped.
    near = torch.where((values - old_values).abs() > clip_range, old_values + change, values)
    unclipped, clipped = (values - returns).square(), (near - returns).square()
    loss = 0.5 * torch.maximum(unclipped, clipped).masked_fill(~response_mask, 0.0).sum()
    return ClippedLoss(loss, ((clipped > unclipped) & response_mask).sum())


def explained_variance(values: Tensor, returns: Tensor, response_mask: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over the kept tokens; 0 where the returns do not vary."""
    targets, errors = returns[response_mask].double(), (returns - values)[response_mask].double()
    variance = targets.var(unbiased=False)
    if variance == 0:
        return 0.0
    return float(1.0 - errors.var(unbiased=False) / variance)

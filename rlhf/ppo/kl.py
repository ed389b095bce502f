"""The KL penalty: estimators, per-token rewards and the steering of its weight.

Shapes: B responses, R token columns. All estimators are of KL(policy || reference), in nats, on tokens that the
policy sampled.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.masking import masked_sum


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log(policy / reference) of each sampled token: unbiased, and negative as often as need be. Any shape.

    Source:
        Schulman, "Approximating KL divergence", 2020: k1.
    """
    return logprobs - ref_logprobs


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """(r - 1) - log r with r = reference / policy: unbiased, never negative, of lower variance. Any shape.

    Source:
        Schulman, "Approximating KL divergence", 2020: k3.
    """
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def token_rewards(scores: Tensor, kl: Tensor, response_mask: Tensor, kl_coef: float) -> Tensor:
    """A token's reward, [B, R]: -kl_coef * kl at each token, and the response's score at its last one.

    Args:
        scores: score of each response, [B].
        kl: k1 of each token, [B, R].
        response_mask: True on response tokens, a prefix of at least one a row, [B, R].
        kl_coef: weight of the penalty.

    Source:
        Stiennon et al., 2009.01325, section 3.4; InstructGPT, 2203.02155, equation 2.
    """
    rewards = torch.where(response_mask, -kl_coef * kl, 0.0)
    last = response_mask.sum(1) - 1
    return rewards.scatter_add(1, last[:, None], scores[:, None].to(rewards.dtype))


def response_kl(kl: Tensor, response_mask: Tensor) -> Tensor:
    """Sum of a response's token estimates, nats a response, [B]."""
    return masked_sum(kl, response_mask)


@dataclass(frozen=True)
class AdaptiveKL:
    """Steers kl_coef so that the KL comes to a target.

    Attributes:
        target: nats a response.
        horizon: episodes over which the steering acts.
        largest_error: the relative distance from the target that one rollout counts for at most.

    Source:
        Ziegler et al., 1909.08593, section 2.2.
    """

    target: float
    horizon: float
    largest_error: float

    def next_coef(self, kl_coef: float, kl: float, num_episodes: int) -> float:
        """The coefficient after a rollout of `num_episodes` whose mean KL was `kl` nats a response."""
        error = min(max(kl / self.target - 1.0, -self.largest_error), self.largest_error)
        return kl_coef * (1.0 + error * num_episodes / self.horizon)

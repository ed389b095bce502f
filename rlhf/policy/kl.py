"""The KL penalty: estimators, per-token rewards and the steering of its weight.

Shapes: B responses, R token columns, V vocabulary. All estimators are of KL(policy || reference), in nats, on tokens
that the policy sampled.
"""

import torch
from torch import Tensor

from rlhf.policy.masking import masked_sum

# Logits that are fp32 at one time.
_CHUNK_ELEMENTS = 2**20


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


def kl_exact(logits: Tensor, ref_logits: Tensor, temperature: float) -> Tensor:
    """The KL of the two distributions that each token was drawn from, [B, R]: never negative.

    Its sum over a response is an unbiased estimate of the KL of whole responses, since these are the policy's, and has
    less variance than the sum of what the sampled tokens alone say.

    Args:
        logits: the policy's, [B, R, V].
        ref_logits: the reference's, [B, R, V].
        temperature: divides both.
    """
    rows, ref_rows = logits.flatten(0, -2), ref_logits.flatten(0, -2)
    kl = torch.empty(len(rows), device=logits.device)
    size = max(1, _CHUNK_ELEMENTS // logits.shape[-1])
    for start in range(0, len(rows), size):
        logprobs, ref_logprobs = (
            (some[start : start + size].float() / temperature).log_softmax(-1) for some in (rows, ref_rows)
        )
        shares = logprobs.exp()
        terms = shares * (logprobs - ref_logprobs)
        # A token that the policy never says adds nothing, also where both give it a logit of minus infinity.
        kl[start : start + size] = terms.masked_fill_(shares == 0, 0.0).sum(-1).clamp_(min=0.0)
    return kl.view(logits.shape[:-1])


def token_rewards(scores: Tensor, kl: Tensor, response_mask: Tensor, kl_coef: float) -> Tensor:
    """A token's reward, [B, R]: -kl_coef * kl at each token, and the response's score at its last one.

    Args:
        scores: score of each response, [B].
        kl: k1 of each token, [B, R].
        response_mask: True on response tokens, a prefix of at least one per row, [B, R].
        kl_coef: weight of the penalty.

    Source:
        Stiennon et al., 2009.01325, section 3.4; InstructGPT, 2203.02155, equation 2.
    """
    rewards = torch.where(response_mask, -kl_coef * kl, 0.0)
    last = response_mask.sum(1) - 1
    return rewards.scatter_add(1, last[:, None], scores[:, None].to(rewards.dtype))


def response_kl(kl: Tensor, response_mask: Tensor) -> Tensor:
    """Sum of a response's token estimates, nats per response, [B]."""
    return masked_sum(kl, response_mask)


def steer_kl_coef(
    kl_coef: float, kl: float, num_episodes: int, *, target: float, horizon: float, largest_error: float
) -> float:
    """The coefficient of the next rollout, steered so that the KL comes to a target.

    Args:
        kl_coef: of the rollout.
        kl: its mean KL, nats per response.
        num_episodes: its responses.
        target: nats per response.
        horizon: episodes over which the steering acts.
        largest_error: the relative distance from the target that one rollout counts for at most.

    Source:
        Ziegler et al., 1909.08593, section 2.2.
    """
    error = min(max(kl / target - 1.0, -largest_error), largest_error)
    return kl_coef * (1.0 + error * num_episodes / horizon)

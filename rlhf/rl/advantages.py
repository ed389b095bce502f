"""What a token of a rollout is worth, by method.

Shapes: B responses, R token columns, K responses to each prompt, which stand together. A response's last kept token
ends its episode: what follows is worth nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.policy.masking import masked_sum, masked_whiten

_LEAST_DEVIATION = 1e-4


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
    """Generalized advantage estimation.

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


def leave_one_out(rewards: Tensor, response_mask: Tensor, group_size: int) -> Tensor:
    """A response's return less the mean of the other responses to its prompt, at each of its tokens, [B, R].

    Args:
        rewards: a token's reward, [B, R].
        response_mask: True on response tokens, [B, R].
        group_size: K, at least 2.

    Source:
        RLOO: Ahmadian et al., 2402.14740, section 3.2.
    """
    returns = _by_group(rewards, response_mask, group_size)
    others = (returns.sum(1, keepdim=True) - returns) / (group_size - 1)
    return _at_each_token(returns - others, response_mask)


def group_centred(rewards: Tensor, response_mask: Tensor, group_size: int) -> Tensor:
    """A response's return less the mean of all responses to its prompt, at each of its tokens, [B, R].

    Source:
        Dr. GRPO: Liu et al., 2503.20783, section 3.
    """
    returns = _by_group(rewards, response_mask, group_size)
    return _at_each_token(returns - returns.mean(1, keepdim=True), response_mask)


def group_standardized(rewards: Tensor, response_mask: Tensor, group_size: int) -> Tensor:
    """The same over the standard deviation of the group's returns, [B, R].

    Source:
        GRPO: Shao et al., 2402.03300, section 4.1.2.
    """
    returns = _by_group(rewards, response_mask, group_size)
    deviations = returns.std(1, keepdim=True) + _LEAST_DEVIATION
    return _at_each_token((returns - returns.mean(1, keepdim=True)) / deviations, response_mask)


def best_against_worst(
    scores: Tensor, log_ratios: Tensor, response_mask: Tensor, group_size: int, beta: float
) -> Tensor:
    """Weights of log-probabilities whose gradient is that of DPO's loss on each group's best and worst, [B, R].

    With h = beta * (log-ratio of the best - log-ratio of the worst) they are beta * sigmoid(-h) on the tokens of the
    best and the negative of it on those of the worst; 0 on all others, and where all scores of a group are one.

    Args:
        scores: of each response, [B].
        log_ratios: log(policy / SFT policy) of each token, [B, R].
        response_mask: True on response tokens, [B, R].
        group_size: K, at least 2.
        beta: of DPO.

    Source:
        Online DPO: Guo et al., 2402.04792; DPO's gradient: Rafailov et al., 2305.18290, section 4.
    """
    by_group, ratios = scores.view(-1, group_size), masked_sum(log_ratios, response_mask).view(-1, group_size)
    best, worst = by_group.argmax(1, keepdim=True), by_group.argmin(1, keepdim=True)
    margin = beta * (ratios.gather(1, best) - ratios.gather(1, worst))
    weight = beta * torch.sigmoid(-margin) * (best != worst)
    weights = torch.zeros_like(ratios).scatter_add(1, best, weight).scatter_add(1, worst, -weight)
    return _at_each_token(weights, response_mask)


def constant_groups(scores: Tensor, group_size: int) -> float:
    """Share of the groups whose scores [B] are all the same, from which nothing is learned but the KL."""
    by_group = scores.view(-1, group_size)
    return float((by_group == by_group[:, :1]).all(1).float().mean())


def _by_group(rewards: Tensor, response_mask: Tensor, group_size: int) -> Tensor:
    """Sums of the responses' rewards, [B / K, K]."""
    return masked_sum(rewards, response_mask).view(-1, group_size)


def _at_each_token(of_responses: Tensor, response_mask: Tensor) -> Tensor:
    """[B / K, K] as [B, R]."""
    return of_responses.reshape(-1, 1).expand(response_mask.shape).masked_fill(~response_mask, 0.0)

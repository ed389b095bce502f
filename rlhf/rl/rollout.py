"""A rollout: responses sampled by the policy, scored, and turned into advantages.

Shapes: B episodes, R response columns of the longest response. With several processes each computes its share of the
rows, and all of them hold the whole rollout.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf.modeling.batches import SequenceBatch
from rlhf.modeling.cpu.parallel import side_by_side
from rlhf.modeling.device import cached_casts, derive_seed
from rlhf.modeling.generation import sampling_noise
from rlhf.modeling.logprobs import chosen_logprobs_and_entropy, response_logits
from rlhf.modeling.precision import autocast
from rlhf.policy.kl import kl_k1, token_rewards
from rlhf.policy.sampling import (
    map_rows,
    micro_batches,
    response_logprobs_of,
    sample_responses,
    score_responses,
)
from rlhf.rewards.sources import RunningMoments, SampledResponses, apply_penalties, combine
from rlhf.rl.advantages import best_against_worst, estimate_advantages
from rlhf.rl.context import RLContext
from rlhf.rl.value_model import TrunkValueHead

# Of an update whose sampling is looked at: enough tokens to see another distribution, and no time to speak of.
_NUM_ROWS_LOOKED_AT = 4
_TOKENS_AT_A_TIME = 64

Settle = Callable[[Tensor, Tensor, Tensor], None]
"""Takes m rows of a rollout, and their log-probabilities and entropy, [m, r]."""
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Rollout:
    """Experience of one update. Tokens outside `batch.response_mask` hold 0.

    Attributes:
        batch: prompts and responses.
        old_logprobs: log-probabilities under the policy that sampled, [B, R].
        ref_logprobs: under the SFT policy, [B, R].
        entropy: of the distribution that each token was drawn from, nats, [B, R].
        values: of the value model before the update, [B, R]; None without a critic.
        source_scores: what each source says, less its offset, [B], by name.
        scores: what they come to together, after clipping and penalties, [B].
        kl: k1 of each token, policy against reference, nats, [B, R].
        rewards: a token's reward, after the KL penalty, [B, R].
        advantages: what a token is worth, [B, R]; of PPO whitened.
        returns: targets of the value model, [B, R]; None without one.
        loss_kl_coef: weight of the KL (k3) in a token's loss; 0 where the rewards have it.
        ended: whether the response has its EOS, [B].
        moments: of the sources' scores, this rollout's included.
        settle: where the one training pass over the rollout is the policy's only one, fills in what that pass tells:
            old_logprobs, entropy, kl, rewards and advantages of rows, which are whole groups. None: they are there.
    """

    batch: SequenceBatch
    old_logprobs: Tensor
    ref_logprobs: Tensor
    entropy: Tensor
    values: Tensor | None
    source_scores: Mapping[str, Tensor]
    scores: Tensor
    kl: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor | None
    loss_kl_coef: float
    ended: Tensor
    moments: Mapping[str, RunningMoments]
    settle: Settle | None = None


def rollout_prompts(seed: int, update: int, num_rollout_prompts: int, num_prompts: int) -> list[int]:
    """Numbers of an update's prompts: consecutive pieces of an endless row of seeded permutations."""
    wanted = range(update * num_rollout_prompts, (update + 1) * num_rollout_prompts)
    orders = {epoch: _order(seed, epoch, num_prompts) for epoch in {place // num_prompts for place in wanted}}
    return [orders[place // num_prompts][place % num_prompts] for place in wanted]


def collect_rollout(context: RLContext, update: int, kl_coef: float, moments: Mapping[str, RunningMoments]) -> Rollout:
    """Sample, score and estimate advantages, as the method does.

    Args:
        context: of the run.
        update: number of the update, from 0; with the seed it decides prompts and noise.
        kl_coef: weight of the KL penalty in this rollout.
        moments: of the sources' scores in the rollouts before.
    """
    config, models, algorithm = context.config, context.models, context.algorithm
    chosen = _chosen_prompts(context, update)
    rows = sample_responses(context, context.prompts.pick(chosen), _noise_keys(update, chosen), context.setup.seed)
    mask, lengths = rows.batch.response_mask, rows.batch.response_mask.sum(1)
    once = _is_passed_once(context, update)
    old_logprobs, entropy, values = _unknown(mask) if once else _policy_and_values(context, rows.batch)
    source_scores, ref_logprobs = _scores_and_ref_logprobs(context, rows)
    combined, moments = combine(config, models.sources, source_scores, moments)
    scores = apply_penalties(combined, rows.ended, lengths, config)
    kl = kl_k1(old_logprobs, ref_logprobs)
    reward_kl_coef = kl_coef if algorithm.kl_in_reward(config) else 0.0
    rewards = token_rewards(scores, kl, mask, reward_kl_coef)
    returns = None
    if values is not None:
        estimate = estimate_advantages(rewards, values, mask, config.gamma, config.gae_lambda)
        advantages, returns = estimate.advantages, estimate.returns
    elif algorithm.estimate is not None:
        advantages = algorithm.estimate(rewards, mask, config.num_responses_per_prompt)
    else:
        advantages = _of_pairs(context, scores, kl, mask)

    def settle(index: Tensor, logprobs: Tensor, token_entropy: Tensor) -> None:
        of_rows, columns = mask[index], slice(0, logprobs.shape[1])
        for whole, part in ((old_logprobs, logprobs), (entropy, token_entropy)):
            whole[index, columns] = part.float().masked_fill(~of_rows[:, columns], 0.0)
        kl[index] = kl_k1(old_logprobs[index], ref_logprobs[index])
        rewards[index] = token_rewards(scores[index], kl[index], of_rows, reward_kl_coef)
        assert algorithm.estimate is not None, "the method compares the responses of a group"
        advantages[index] = algorithm.estimate(rewards[index], of_rows, config.num_responses_per_prompt)

    return Rollout(
        batch=rows.batch,
        old_logprobs=old_logprobs,
        ref_logprobs=ref_logprobs,
        entropy=entropy,
        values=values,
        source_scores=source_scores,
        scores=scores,
        kl=kl,
        rewards=rewards,
        advantages=advantages,
        returns=returns,
        loss_kl_coef=kl_coef if algorithm.kl_in_loss(config) else 0.0,
        ended=rows.ended,
        moments=moments,
        settle=settle if once else None,
    )


def _is_passed_once(context: RLContext, update: int) -> bool:
    """Whether the policy's log-probabilities may come from its one training pass, whose ratio is 1 whatever they are.

    Not in the first update, whose checks want them before, nor where rows of a group are not in one pass.
    """
    config = context.config
    one_step = config.num_ppo_epochs == config.num_minibatches == 1
    whole_groups = config.rows_per_pass % config.num_responses_per_prompt == 0
    one_process = context.compute.num_processes == 1
    return update > 0 and context.algorithm.estimate is not None and one_step and whole_groups and one_process


def _unknown(mask: Tensor) -> tuple[Tensor, Tensor, None]:
    """Log-probabilities and entropy that are not known yet, each [B, R]; there is no value model."""
    return torch.zeros(mask.shape, device=mask.device), torch.zeros(mask.shape, device=mask.device), None


def compared_anew(context: RLContext, rollout: Rollout, index: Tensor) -> Rollout:
    """The rollout with the pairs of some rows compared as the policy is now, for a step of online DPO on them.

    Args:
        context: whose policy has learned since it sampled.
        rollout: what it sampled.
        index: rows of whole groups, [M].
    """
    rows = index.sort().values
    batch = rollout.batch.rows(rows)
    columns = slice(0, batch.num_response_tokens)
    with cached_casts(context.compute):
        logprobs = response_logprobs_of(context, context.models.policy, batch)
    log_ratios = logprobs - rollout.ref_logprobs[rows, columns]
    advantages, old_logprobs = rollout.advantages.clone(), rollout.old_logprobs.clone()
    advantages[rows, columns] = _of_pairs(context, rollout.scores[rows], log_ratios, batch.response_mask)
    old_logprobs[rows, columns] = logprobs
    return replace(rollout, advantages=advantages, old_logprobs=old_logprobs)


def _of_pairs(context: RLContext, scores: Tensor, log_ratios: Tensor, mask: Tensor) -> Tensor:
    return best_against_worst(scores, log_ratios, mask, context.config.num_responses_per_prompt, context.config.beta)


@torch.no_grad()
def sampling_error(context: RLContext, rollout: Rollout, update: int) -> float:
    """How far the pass that computes log-probabilities is from drawing the tokens that were sampled.

    A token is drawn where a random number falls into the token's share of 0 to 1. Returned is the largest distance of
    such a number from the share that the token has in that pass, over the tokens of the longest few rows: 0 where
    sampling and scoring agree on the distribution.

    Args:
        context: whose policy is the one that sampled, unchanged since.
        rollout: what it sampled.
        update: number of the update.
    """
    config, chosen = context.config, _chosen_prompts(context, update)
    # A part of one micro-batch, whose shapes have been computed before: kernels of new ones would take memory for good.
    everything = torch.arange(len(chosen), device=rollout.batch.input_ids.device)
    index = micro_batches(rollout.batch, everything, config.micro_batch_size or len(chosen))[0][:_NUM_ROWS_LOOKED_AT]
    batch, keys = rollout.batch.rows(index), _noise_keys(update, chosen)
    noise = sampling_noise(context.setup.seed, [keys[row] for row in index.tolist()], config.max_response_tokens)
    with cached_casts(context.compute), autocast(context.compute):
        logits = response_logits(context.models.policy, batch)
    largest = 0.0
    for row, uniform in enumerate(torch.from_numpy(noise).to(logits.device)):
        for some in batch.response_mask[row].nonzero()[:, 0].split(_TOKENS_AT_A_TIME):
            cumulative = (logits[row, some].float() / config.temperature).softmax(-1).double().cumsum(-1)
            ends = pad(cumulative / cumulative[:, -1:], (1, 0))
            first, last = (ends.gather(1, batch.responses[row, some, None] + k)[:, 0] for k in (0, 1))
            outside = torch.maximum(first - uniform[some], uniform[some] - last)
            largest = max(largest, float(outside.max()))
    return largest


def _policy_and_values(context: RLContext, batch: SequenceBatch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log-probabilities and entropy under the policy, and values where there is a value model, each [B, R]."""
    config, compute, models = context.config, context.compute, context.models

    def with_policy(rows: SequenceBatch) -> tuple[Tensor, ...]:
        with autocast(compute):
            logits = response_logits(models.policy, rows)
        return chosen_logprobs_and_entropy(logits, rows.responses, config.temperature)

    value_model = models.value_model
    if value_model is None:
        with cached_casts(compute):
            logprobs, entropy = map_rows(with_policy, batch, context, num_results=2)
        return logprobs, entropy, None

    def with_values(rows: SequenceBatch) -> tuple[Tensor, ...]:
        with autocast(compute):
            return (value_model(rows),)

    if isinstance(value_model, TrunkValueHead):
        with cached_casts(compute):
            logprobs, entropy, values = map_rows(
                lambda rows: (*with_policy(rows), *with_values(rows)), batch, context, num_results=3
            )
        return logprobs, entropy, values

    def of_policy() -> tuple[Tensor, ...]:
        with cached_casts(compute):
            return map_rows(with_policy, batch, context, num_results=2)

    def of_value_model() -> tuple[Tensor, ...]:
        with cached_casts(compute):
            return map_rows(with_values, batch, context)

    of_tokens, of_states = _both(context, of_policy, of_value_model)
    return of_tokens[0], of_tokens[1], of_states[0]


def _scores_and_ref_logprobs(context: RLContext, rows: SampledResponses) -> tuple[dict[str, Tensor], Tensor]:
    """Scores [B] of every source, and log-probabilities [B, R] under the SFT policy."""
    return _both(
        context,
        # In this thread: a reward function may be of a kind that wants always the same one.
        lambda: score_responses(context, rows),
        lambda: response_logprobs_of(context, context.models.ref_policy, rows.batch),
    )


def _both(context: RLContext, first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
    """At the same time where that is configured, in turn otherwise."""
    if context.config.side_by_side:
        return side_by_side(context.compute, first, second)
    return first(), second()


def _order(seed: int, epoch: int, num_prompts: int) -> list[int]:
    generator = torch.Generator().manual_seed(derive_seed(seed, "prompt-order", epoch))
    order: list[int] = torch.randperm(num_prompts, generator=generator).tolist()
    return order


def _chosen_prompts(context: RLContext, update: int) -> list[int]:
    """The prompt of each episode."""
    num_responses, num_prompts = context.config.num_responses_per_prompt, len(context.prompts.ids)
    chosen = rollout_prompts(context.setup.seed, update, context.config.rollout_size // num_responses, num_prompts)
    return [prompt for prompt in chosen for _ in range(num_responses)]


def _noise_keys(update: int, chosen: Sequence[int]) -> list[tuple[str | int, ...]]:
    """(update, prompt, sample): a prompt that stands in a rollout twice is sampled twice."""
    seen: Counter[int] = Counter()
    keys: list[tuple[str | int, ...]] = []
    for prompt in chosen:
        keys.append((update, prompt, seen[prompt]))
        seen[prompt] += 1
    return keys

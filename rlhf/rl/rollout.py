"""A rollout: responses sampled by the policy, scored, and turned into advantages.

Shapes: B episodes, R response columns of the longest response. With several processes each computes its share of the
rows, and all of them hold the whole rollout.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf.config.rl import RewardSourceConfig, RLConfig
from rlhf.modeling.batches import SequenceBatch, batches_by_length, pad_sequences
from rlhf.modeling.context import StageContext
from rlhf.modeling.cpu.parallel import side_by_side
from rlhf.modeling.device import cached_casts, derive_seed
from rlhf.modeling.generation import sample, sampling_noise
from rlhf.modeling.logprobs import chosen_logprobs, chosen_logprobs_and_entropy, response_logits
from rlhf.modeling.precision import autocast
from rlhf.rewards.sources import RunningMoments, SampledResponses, Source, apply_penalties, combine, raw_scores
from rlhf.rl import distributed as processes
from rlhf.rl.advantages import estimate_advantages
from rlhf.rl.context import Prompts, RLContext
from rlhf.rl.kl import kl_exact, kl_k1, token_rewards
from rlhf.rl.value_model import TrunkValueHead

# Of an update whose sampling is looked at: enough tokens to see another distribution, and no time to speak of.
_NUM_ROWS_LOOKED_AT = 4
_TOKENS_AT_A_TIME = 64

A = TypeVar("A")
B = TypeVar("B")
RowFunction = Callable[[SequenceBatch], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Rollout:
    """Experience of one update. Tokens outside `batch.response_mask` hold 0.

    Attributes:
        batch: prompts and responses.
        old_logprobs: log-probabilities under the policy that sampled, [B, R].
        ref_logprobs: under the SFT policy, [B, R].
        entropy: of the distribution that each token was drawn from, nats, [B, R].
        values: of the value model before the update, [B, R].
        source_scores: what each source says, less its offset, [B], by name.
        scores: their weighted sum, after clipping and penalties, [B].
        kl: k1 of each token, policy against reference, nats, [B, R].
        rewards: a token's reward, after the KL penalty, [B, R].
        advantages: whitened, [B, R].
        returns: targets of the value model, [B, R].
        ended: whether the response has its EOS, [B].
        moments: of the sources' scores, this rollout's included.
    """

    batch: SequenceBatch
    old_logprobs: Tensor
    ref_logprobs: Tensor
    entropy: Tensor
    values: Tensor
    source_scores: Mapping[str, Tensor]
    scores: Tensor
    kl: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor
    ended: Tensor
    moments: Mapping[str, RunningMoments]


def rollout_prompts(seed: int, update: int, num_rollout_prompts: int, num_prompts: int) -> list[int]:
    """Numbers of an update's prompts: consecutive pieces of an endless row of seeded permutations."""
    wanted = range(update * num_rollout_prompts, (update + 1) * num_rollout_prompts)
    orders = {epoch: _order(seed, epoch, num_prompts) for epoch in {place // num_prompts for place in wanted}}
    return [orders[place // num_prompts][place % num_prompts] for place in wanted]


def collect_rollout(context: RLContext, update: int, kl_coef: float, moments: Mapping[str, RunningMoments]) -> Rollout:
    """Sample, score and estimate advantages.

    Args:
        context: of the run.
        update: number of the update, from 0; with the seed it decides prompts and noise.
        kl_coef: weight of the KL penalty in this rollout.
        moments: of the sources' scores in the rollouts before.
    """
    config, models = context.config, context.models
    chosen = _chosen_prompts(context, update)
    rows = sample_responses(context, context.prompts.pick(chosen), _noise_keys(update, chosen), context.setup.seed)
    mask, lengths = rows.batch.response_mask, rows.batch.response_mask.sum(1)
    old_logprobs, entropy, values = _policy_and_values(context, rows.batch)
    source_scores, ref_logprobs = _scores_and_ref_logprobs(context, rows)
    combined, moments = combine(models.sources, source_scores, moments)
    scores = apply_penalties(combined, rows.ended, lengths, config)
    kl = kl_k1(old_logprobs, ref_logprobs)
    rewards = token_rewards(scores, kl, mask, kl_coef)
    estimate = estimate_advantages(rewards, values, mask, config.gamma, config.gae_lambda)
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
        advantages=estimate.advantages,
        returns=estimate.returns,
        ended=rows.ended,
        moments=moments,
    )


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


def sample_responses(
    context: RLContext, prompts: Prompts, noise_keys: Sequence[tuple[str | int, ...]], seed: int
) -> SampledResponses:
    """Sample a response to each prompt, each from noise of its own.

    Args:
        context: whose policy samples.
        prompts: B of them.
        noise_keys: what identifies each row's draw.
        seed: of the draws.

    Raises:
        FloatingPointError: the policy's logits are not finite.
    """
    config, tokenizer, device = context.config, context.tokenizer, context.compute.device
    own = processes.local_rows(torch.arange(len(prompts.ids))).tolist()
    sampled: list[list[int]] = []
    if own:  # of a few prompts a process may have none
        noise = sampling_noise(seed, [noise_keys[i] for i in own], config.max_response_tokens)
        ids = [prompts.ids[i] for i in own]
        size = config.micro_batch_size or config.minibatch_size
        sampled = sample(context.models.policy, ids, noise, tokenizer, context.compute, config.temperature, size)
    responses = processes.all_gather(sampled, len(prompts.ids))
    batch = pad_sequences(prompts.ids, responses, tokenizer.pad_token_id, device)
    ended = torch.tensor([response[-1] == tokenizer.eos_token_id for response in responses], device=device)
    return SampledResponses(batch, prompts.conversations, responses, ended)


def response_logprobs_of(context: StageContext[RLConfig], model: object, batch: SequenceBatch) -> Tensor:
    """Log-probabilities of the batch's responses, [B, R], 0 outside the mask."""

    def logprobs(rows: SequenceBatch) -> tuple[Tensor, ...]:
        with autocast(context.compute):
            logits = response_logits(model, rows)
        return (chosen_logprobs(logits, rows.responses, context.config.temperature),)

    return map_rows(logprobs, batch, context.config)[0]


def kl_of_responses(context: RLContext, batch: SequenceBatch) -> Tensor:
    """Exact KL of policy to reference at each of the batch's response tokens, nats, [B, R], 0 outside the mask."""

    def exact(rows: SequenceBatch) -> tuple[Tensor, ...]:
        models = (context.models.policy, context.models.ref_policy)
        with autocast(context.compute):
            logits, ref_logits = (response_logits(model, rows) for model in models)
        return (kl_exact(logits, ref_logits, context.config.temperature),)

    return map_rows(exact, batch, context.config)[0]


def score_responses(context: RLContext, rows: SampledResponses) -> dict[str, Tensor]:
    """Scores [B] of every source, by its name."""
    return {source.config.name: _scores(context, source, rows) for source in context.models.sources}


def selection_scores(context: RLContext, rows: SampledResponses) -> Tensor:
    """Scores [B] of the reward model that chooses checkpoints."""
    name = RewardSourceConfig(name="selection_reward_model")
    return _scores(context, Source(name, context.models.selection_reward_model), rows)


@torch.no_grad()
def _scores(context: RLContext, source: Source, rows: SampledResponses) -> Tensor:
    scores = torch.zeros(len(rows.responses), device=rows.batch.input_ids.device)
    for index in _own_micro_batches(rows.batch, context.config):
        with autocast(context.compute):
            scores[index] = raw_scores(context, source, _pick(rows, index))
    return processes.all_reduce_sum(scores)


@torch.no_grad()
def map_rows(
    compute_rows: RowFunction, batch: SequenceBatch, config: RLConfig, num_results: int = 1
) -> tuple[Tensor, ...]:
    """Apply a function of several [b, r] to trimmed rows of like length and put the results together, each [B, R]."""
    results = [torch.zeros(batch.response_mask.shape, device=batch.input_ids.device) for _ in range(num_results)]
    for index in _own_micro_batches(batch, config):
        for result, part in zip(results, compute_rows(batch.rows(index)), strict=True):
            result[index, : part.shape[1]] = part.float()
    return tuple(processes.all_reduce_sum(result).masked_fill(~batch.response_mask, 0.0) for result in results)


def micro_batches(batch: SequenceBatch, index: Tensor, size: int) -> list[Tensor]:
    """The rows `index` in pieces of `size` rows of like length, the longest first."""
    lengths = batch.lengths[index].tolist()
    return [index[torch.tensor(piece, device=index.device)] for piece in batches_by_length(lengths, size)]


def _policy_and_values(context: RLContext, batch: SequenceBatch) -> tuple[Tensor, ...]:
    """Log-probabilities and entropy under the policy, and values, each [B, R]."""
    config, compute, models = context.config, context.compute, context.models

    def with_policy(rows: SequenceBatch) -> tuple[Tensor, ...]:
        with autocast(compute):
            logits = response_logits(models.policy, rows)
        return chosen_logprobs_and_entropy(logits, rows.responses, config.temperature)

    def with_values(rows: SequenceBatch) -> tuple[Tensor, ...]:
        with autocast(compute):
            return (models.value_model(rows),)

    if isinstance(models.value_model, TrunkValueHead):
        with cached_casts(compute):
            return map_rows(lambda rows: (*with_policy(rows), *with_values(rows)), batch, config, num_results=3)

    def of_policy() -> tuple[Tensor, ...]:
        with cached_casts(compute):
            return map_rows(with_policy, batch, config, num_results=2)

    def of_value_model() -> tuple[Tensor, ...]:
        with cached_casts(compute):
            return map_rows(with_values, batch, config)

    logprobs_and_entropy, values = _both(context, of_policy, of_value_model)
    return (*logprobs_and_entropy, *values)


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


def _own_micro_batches(batch: SequenceBatch, config: RLConfig) -> Iterator[Tensor]:
    everything = torch.arange(len(batch.input_ids), device=batch.input_ids.device)
    yield from micro_batches(batch, processes.local_rows(everything), config.micro_batch_size or config.minibatch_size)


def _pick(rows: SampledResponses, index: Tensor) -> SampledResponses:
    picked = index.tolist()
    return SampledResponses(
        rows.batch.rows(index),
        [rows.prompts[i] for i in picked],
        [rows.responses[i] for i in picked],
        rows.ended[index],
    )


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

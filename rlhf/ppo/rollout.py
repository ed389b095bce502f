"""A rollout: responses sampled by the policy, scored, and turned into advantages.

Shapes: B episodes, R response columns of the longest response.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf.compute import autocast, seeded
from rlhf.config import PPOConfig, Setup
from rlhf.generation import sample, sampling_noise
from rlhf.logprobs import chosen_logprobs, response_logits
from rlhf.models import score
from rlhf.ppo.advantages import estimate_advantages
from rlhf.ppo.kl import kl_k1, token_rewards
from rlhf.ppo.value_model import ValueModel
from rlhf.sequences import SequenceBatch, batches_by_length, pad_sequences

RowFunction = Callable[[SequenceBatch], Tensor]


@dataclass(frozen=True)
class Models:
    """The models of a PPO run. Policy and value model learn, the others are frozen."""

    tokenizer: Any
    policy: Any
    ref_policy: Any
    reward_model: Any
    selection_reward_model: Any
    value_model: ValueModel


@dataclass(frozen=True)
class Rollout:
    """What one update learns from. Tokens outside `batch.response_mask` hold 0.

    Attributes:
        batch: prompts and responses.
        old_logprobs: log-probabilities under the policy that sampled, [B, R].
        ref_logprobs: under the SFT policy, [B, R].
        values: of the value model before the update, [B, R].
        scores: what the reward model says, after clipping and penalties, [B].
        kl: k1 of each token, policy against reference, nats, [B, R].
        rewards: a token's reward, after the KL penalty, [B, R].
        advantages: whitened, [B, R].
        returns: targets of the value model, [B, R].
        ended: whether the response has its EOS, [B].
    """

    batch: SequenceBatch
    old_logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    scores: Tensor
    kl: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor
    ended: Tensor


def rollout_prompts(seed: int, update: int, rollout_size: int, num_prompts: int) -> list[int]:
    """Which prompts an update uses: consecutive pieces of an endless row of seeded permutations."""
    wanted = range(update * rollout_size, (update + 1) * rollout_size)
    orders = {epoch: _order(seed, epoch, num_prompts) for epoch in {place // num_prompts for place in wanted}}
    return [orders[place // num_prompts][place % num_prompts] for place in wanted]


def collect_rollout(
    config: PPOConfig, setup: Setup, models: Models, prompts: Sequence[Sequence[int]], update: int, kl_coef: float
) -> Rollout:
    """Sample, score and estimate advantages.

    Args:
        config: sizes and coefficients.
        setup: seed and compute.
        models: the models of the run.
        prompts: token ids of every training prompt.
        update: number of the update, from 0; with the seed it decides prompts and noise.
        kl_coef: weight of the KL penalty in this rollout.
    """
    chosen = rollout_prompts(setup.seed, update, config.rollout_size, len(prompts))
    noise = sampling_noise(setup.seed, _noise_keys(update, chosen), config.max_response_tokens)
    rows = [prompts[prompt] for prompt in chosen]
    responses = sample(models.policy, rows, noise, models.tokenizer, setup.compute, config.temperature)
    batch = pad_sequences(rows, responses, models.tokenizer.pad_token_id, setup.compute.device)
    ended = torch.tensor([r[-1] == models.tokenizer.eos_token_id for r in responses], device=setup.compute.device)
    old_logprobs = response_logprobs_of(models.policy, batch, config, setup)
    ref_logprobs = response_logprobs_of(models.ref_policy, batch, config, setup)
    values = by_rows(models.value_model, batch, config, setup)
    scores = penalized_scores(score_batch(models.reward_model, batch, config, setup), ended, config)
    kl = kl_k1(old_logprobs, ref_logprobs)
    rewards = token_rewards(scores, kl, batch.response_mask, kl_coef)
    estimate = estimate_advantages(rewards, values, batch.response_mask, config.gamma, config.gae_lambda)
    return Rollout(
        batch, old_logprobs, ref_logprobs, values, scores, kl, rewards, estimate.advantages, estimate.returns, ended
    )


def penalized_scores(scores: Tensor, ended: Tensor, config: PPOConfig) -> Tensor:
    """Scores [B], clipped, then less the penalty where EOS is missing."""
    if config.score_clip is not None:
        scores = scores.clamp(-config.score_clip, config.score_clip)
    return scores - config.missing_eos_penalty * (~ended)


def response_logprobs_of(model: Any, batch: SequenceBatch, config: PPOConfig, setup: Setup) -> Tensor:
    """Log-probabilities of the batch's responses, [B, R], 0 outside the mask."""

    def logprobs(rows: SequenceBatch) -> Tensor:
        return chosen_logprobs(response_logits(model, rows, config.temperature), rows.responses)

    return by_rows(logprobs, batch, config, setup)


def score_batch(reward_model: Any, batch: SequenceBatch, config: PPOConfig, setup: Setup) -> Tensor:
    """Scores of the batch's responses, [B]."""

    def scores(rows: SequenceBatch) -> Tensor:
        return score(reward_model, rows.input_ids, rows.attention_mask)[:, None]

    lengths = batch.attention_mask.sum(1).tolist()
    result = torch.empty(len(lengths), device=batch.input_ids.device)
    for index, computed in _each(scores, batch, config, setup):
        result[index] = computed[:, 0]
    return result


@torch.no_grad()
def by_rows(compute_rows: RowFunction, batch: SequenceBatch, config: PPOConfig, setup: Setup) -> Tensor:
    """Apply a function of [b, r] to trimmed rows of like length and put the results together, [B, R]."""
    result = torch.zeros(batch.response_mask.shape, device=batch.input_ids.device)
    for index, computed in _each(compute_rows, batch, config, setup):
        result[index, : computed.shape[1]] = computed
    return result.masked_fill(~batch.response_mask, 0.0)


def micro_batches(batch: SequenceBatch, index: Tensor, size: int) -> list[Tensor]:
    """The rows `index` in pieces of `size` rows of like length, the longest first."""
    lengths = batch.attention_mask[index].sum(1).tolist()
    return [index[torch.tensor(piece, device=index.device)] for piece in batches_by_length(lengths, size)]


@torch.no_grad()
def _each(
    compute_rows: RowFunction, batch: SequenceBatch, config: PPOConfig, setup: Setup
) -> list[tuple[Tensor, Tensor]]:
    everything = torch.arange(len(batch.input_ids), device=batch.input_ids.device)
    results = []
    for index in micro_batches(batch, everything, config.micro_batch_size or config.minibatch_size):
        with autocast(setup.compute):
            results.append((index, compute_rows(batch.rows(index)).float()))
    return results


def _order(seed: int, epoch: int, num_prompts: int) -> list[int]:
    generator = torch.Generator().manual_seed(seeded(seed, "prompt-order", epoch))
    order: list[int] = torch.randperm(num_prompts, generator=generator).tolist()
    return order


def _noise_keys(update: int, chosen: Sequence[int]) -> list[tuple[str | int, ...]]:
    """(update, prompt, sample): a prompt that stands in a rollout twice is sampled twice."""
    seen: Counter[int] = Counter()
    keys: list[tuple[str | int, ...]] = []
    for prompt in chosen:
        keys.append((update, prompt, seen[prompt]))
        seen[prompt] += 1
    return keys

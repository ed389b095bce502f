"""Responses of a policy: sampled, scored, and set beside the reference. What every method of training it needs.

Shapes: B responses, R response columns of the longest one. With several processes each computes its share of the rows,
and all of them hold the whole.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from rlhf.config.policy import PolicyConfig, RewardSourceConfig
from rlhf.modeling.batches import SequenceBatch, batches_by_length, pad_sequences
from rlhf.modeling.context import StageContext
from rlhf.modeling.generation import sample, sampling_noise
from rlhf.modeling.logprobs import chosen_logprobs, response_logits
from rlhf.modeling.precision import autocast
from rlhf.policy import distributed as processes
from rlhf.policy.context import PolicyContext, Prompts
from rlhf.policy.kl import kl_exact
from rlhf.policy.sharding import whole
from rlhf.rewards.sources import SampledResponses, Source, raw_scores

RowFunction = Callable[[SequenceBatch], tuple[Tensor, ...]]


def sample_responses(
    context: PolicyContext[PolicyConfig], prompts: Prompts, noise_keys: Sequence[tuple[str | int, ...]], seed: int
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
    policy = context.models.policy
    with whole(policy):  # decoding takes a pass for each token, and ends sooner in one process than in another
        if own:  # of a few prompts a process may have none
            noise = sampling_noise(seed, [noise_keys[i] for i in own], config.max_response_tokens)
            ids, size = [prompts.ids[i] for i in own], config.rows_per_pass
            sampled = sample(policy, ids, noise, tokenizer, context.compute, config.temperature, size)
    responses = processes.all_gather(sampled, len(prompts.ids))
    batch = pad_sequences(prompts.ids, responses, tokenizer.pad_token_id, device)
    ended = torch.tensor([response[-1] == tokenizer.eos_token_id for response in responses], device=device)
    return SampledResponses(batch, prompts.conversations, responses, ended)


def response_logprobs_of(context: StageContext[PolicyConfig], model: object, batch: SequenceBatch) -> Tensor:
    """Log-probabilities of the batch's responses, [B, R], 0 outside the mask."""

    def logprobs(rows: SequenceBatch) -> tuple[Tensor, ...]:
        with autocast(context.compute):
            logits = response_logits(model, rows)
        return (chosen_logprobs(logits, rows.responses, context.config.temperature),)

    return map_rows(logprobs, batch, context)[0]


def kl_of_responses(context: PolicyContext[PolicyConfig], batch: SequenceBatch) -> Tensor:
    """Exact KL of policy to reference at each of the batch's response tokens, nats, [B, R], 0 outside the mask."""

    def exact(rows: SequenceBatch) -> tuple[Tensor, ...]:
        models = (context.models.policy, context.models.ref_policy)
        with autocast(context.compute):
            logits, ref_logits = (response_logits(model, rows) for model in models)
        return (kl_exact(logits, ref_logits, context.config.temperature),)

    return map_rows(exact, batch, context)[0]


def score_responses(context: PolicyContext[PolicyConfig], rows: SampledResponses) -> dict[str, Tensor]:
    """Scores [B] of every source, by its name."""
    return {source.config.name: _scores(context, source, rows) for source in context.models.sources}


def selection_scores(context: PolicyContext[PolicyConfig], rows: SampledResponses) -> Tensor:
    """Scores [B] of the reward model that chooses checkpoints."""
    name = RewardSourceConfig(name="selection_reward_model")
    return _scores(context, Source(name, context.models.selection_reward_model), rows)


@torch.no_grad()
def _scores(context: PolicyContext[PolicyConfig], source: Source, rows: SampledResponses) -> Tensor:
    scores = torch.zeros(len(rows.responses), device=rows.batch.input_ids.device)
    for index in _own_micro_batches(rows.batch, context.config):
        with autocast(context.compute):
            scores[index] = raw_scores(context, source, _pick(rows, index))
    if source.model is not None:
        for index in _idle_micro_batches(rows.batch, context):
            with autocast(context.compute):
                raw_scores(context, source, _pick(rows, index))
    return processes.all_reduce_sum(scores)


@torch.no_grad()
def map_rows(
    compute_rows: RowFunction, batch: SequenceBatch, context: StageContext[PolicyConfig], num_results: int = 1
) -> tuple[Tensor, ...]:
    """Apply a function of several [b, r] to trimmed rows of like length and put the results together, each [B, R]."""
    results = [torch.zeros(batch.response_mask.shape, device=batch.input_ids.device) for _ in range(num_results)]
    for index in _own_micro_batches(batch, context.config):
        for result, part in zip(results, compute_rows(batch.rows(index)), strict=True):
            result[index, : part.shape[1]] = part.float()
    for index in _idle_micro_batches(batch, context):
        compute_rows(batch.rows(index))
    return tuple(processes.all_reduce_sum(result).masked_fill(~batch.response_mask, 0.0) for result in results)


def micro_batches(batch: SequenceBatch, index: Tensor, size: int) -> list[Tensor]:
    """The rows `index` in pieces of `size` rows of like length, the longest first."""
    lengths = batch.lengths[index].tolist()
    return [index[torch.tensor(piece, device=index.device)] for piece in batches_by_length(lengths, size)]


def _own_micro_batches(batch: SequenceBatch, config: PolicyConfig) -> Iterator[Tensor]:
    everything = torch.arange(len(batch.input_ids), device=batch.input_ids.device)
    yield from micro_batches(batch, processes.local_rows(everything), config.rows_per_pass)


def num_idle_passes(context: StageContext[PolicyConfig], num_rows: int, size: int) -> int:
    """Passes that this process makes for nothing: sharded weights are gathered by all processes or by none.

    Args:
        context: whose weights may be sharded.
        num_rows: of all processes together.
        size: rows of a pass.
    """
    if context.compute.sharding == "none":
        return 0
    most, own = math.ceil(num_rows / processes.num_processes()), len(processes.local_rows(torch.arange(num_rows)))
    return math.ceil(most / size) - math.ceil(own / size)


def _idle_micro_batches(batch: SequenceBatch, context: StageContext[PolicyConfig]) -> Iterator[Tensor]:
    num_rows = len(batch.input_ids)
    for _ in range(num_idle_passes(context, num_rows, context.config.rows_per_pass)):
        yield torch.zeros(1, dtype=torch.long, device=batch.input_ids.device)


def _pick(rows: SampledResponses, index: Tensor) -> SampledResponses:
    picked = index.tolist()
    return SampledResponses(
        rows.batch.rows(index),
        [rows.prompts[i] for i in picked],
        [rows.responses[i] for i in picked],
        rows.ended[index],
    )

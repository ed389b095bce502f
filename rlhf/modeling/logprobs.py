"""Log-probabilities of responses.

Shapes: B rows, R response columns, V vocabulary, N = B * R tokens. All are taken at the sampling temperature, from the
distribution that the tokens were drawn from, and in fp32 whatever the logits are in.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlhf.config.model import ComputeConfig
from rlhf.modeling.batches import SequenceBatch, batches_by_length, pad_sequences
from rlhf.modeling.needed_positions import select_positions
from rlhf.modeling.precision import autocast

# Logits that are fp32 at one time: the full softmax of a batch is never in memory.
_CHUNK_ELEMENTS = 2**20


def response_logits(model: Any, batch: SequenceBatch) -> Tensor:
    """Logits that the response's tokens were drawn from, before the temperature, [B, R, V]; of no other position."""
    with select_positions(model, batch.before_responses) as is_selected:
        if is_selected:
            needed: Tensor = model(input_ids=batch.context, use_cache=False).logits
            return needed

    def at_responses(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (batch.before_responses(inputs[0]), *inputs[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(at_responses)
    try:
        logits: Tensor = model(input_ids=batch.context, use_cache=False).logits
    finally:
        hook.remove()
    return logits


def chosen_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Log-probability of each token that stands there, [B, R], fp32.

    Args:
        logits: [B, R, V], in any precision.
        tokens: [B, R].
        temperature: divides the logits.
    """
    return chosen_logprobs_and_entropy(logits, tokens, temperature)[0]


def chosen_logprobs_and_entropy(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of each token, and the entropy of the distribution it was drawn from in nats, both [B, R].

    Both can be differentiated. Nothing of the size of the logits is kept but the logits themselves.
    """
    rows = logits.reshape(-1, logits.shape[-1])
    logprobs, entropy = _TokenStatistics.apply(rows, tokens.reshape(-1), temperature)  # type: ignore[no-untyped-call]
    return logprobs.view(tokens.shape), entropy.view(tokens.shape)


class _TokenStatistics(torch.autograd.Function):
    """Log-probabilities [N] and entropies [N] of logits [N, V], in chunks of rows."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logprobs = torch.empty(len(logits), device=logits.device)
        normalizer, entropy = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for rows in _chunks(logits):
            scaled = logits[rows].float() / temperature
            normalizer[rows] = scaled.logsumexp(-1)
            logprobs[rows] = scaled.gather(-1, tokens[rows, None]).squeeze(-1) - normalizer[rows]
            probabilities = (scaled - normalizer[rows, None]).exp_()
            entropy[rows] = normalizer[rows] - probabilities.mul_(scaled).sum(-1)
        ctx.save_for_backward(logits, tokens, normalizer, entropy)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:
        logits, tokens, normalizer, entropy = ctx.saved_tensors
        of_logprobs, of_entropy = gradients
        result = torch.empty_like(logits)
        for rows in _chunks(logits):
            logprobs = (logits[rows].float() / ctx.temperature).sub_(normalizer[rows, None])
            probabilities = logprobs.exp()
            gradient = torch.zeros_like(probabilities)
            if of_logprobs is not None:
                gradient.addcmul_(probabilities, of_logprobs[rows, None], value=-1)
                gradient.scatter_add_(1, tokens[rows, None], of_logprobs[rows, None])
            if of_entropy is not None:
                slope = probabilities.mul_(logprobs.add_(entropy[rows, None]))
                gradient.addcmul_(slope, of_entropy[rows, None], value=-1)
            result[rows] = gradient.div_(ctx.temperature)
        return result, None, None


def _chunks(logits: Tensor) -> Iterator[slice]:
    size = max(1, _CHUNK_ELEMENTS // logits.shape[-1])
    for start in range(0, len(logits), size):
        yield slice(start, start + size)


@torch.no_grad()
def response_logprobs(
    model: Any,
    compute: ComputeConfig,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    temperature: float,
    pad_token_id: int,
    batch_size: int,
) -> list[NDArray[np.float32]]:
    """Log-probabilities of every response's tokens, a row an array, in batches of like length."""
    rows: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(prompts)
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    for index in batches_by_length(lengths, batch_size):
        batch = pad_sequences([prompts[i] for i in index], [responses[i] for i in index], pad_token_id, compute.device)
        with autocast(compute):
            logits = response_logits(model, batch)
        logprobs = chosen_logprobs(logits, batch.responses, temperature).cpu().numpy()
        for row, values in zip(index, logprobs, strict=True):
            rows[row] = values[: len(responses[row])]
    return rows

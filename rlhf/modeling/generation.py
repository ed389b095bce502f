"""Sampling of responses.

Shapes: B rows, V vocabulary. Every row draws from noise of its own, keyed by what the row is and not by where it
stands in a batch, so that batch size, order and early endings do not change what is sampled.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlhf.config.model import ComputeConfig
from rlhf.modeling.batches import batches_by_length, pad_left, positions
from rlhf.modeling.device import cached_casts, derive_seed
from rlhf.modeling.kv_cache import PreallocatedCache, decoding_cache
from rlhf.modeling.precision import autocast

# Leaving the computation means copying the cache of the rows that stay, so it waits until it pays.
_COMPACT_BELOW = 0.875


def sampling_noise(seed: int, keys: Sequence[tuple[str | int, ...]], num_tokens: int) -> NDArray[np.float64]:
    """Uniform numbers of 53 bits between 0 and 1, one per token, [B, num_tokens]. None of them is 0 or 1.

    With fewer bits most of a large vocabulary's unlikely tokens could never be drawn, and at 0 the first token would
    be, however unlikely.

    Args:
        seed: seed of the run.
        keys: what identifies a row's draw, for instance (update, prompt, sample).
        num_tokens: draws per row.
    """
    noise = np.empty((len(keys), num_tokens))
    for row, key in enumerate(keys):
        noise[row] = np.random.Generator(np.random.Philox(derive_seed(seed, "sampling", *key))).random(num_tokens)
    # From multiples of 2^-53 to the middle between two of them, where fp64 has such a number.
    return np.minimum(noise + 2.0**-54, 1.0 - 2.0**-53)


def generate_responses(
    policy: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    compute: ComputeConfig,
    max_response_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int,
) -> list[list[int]]:
    """Sample one response a prompt. Row i's noise is keyed by (seed, i).

    Returns:
        Token ids of the responses; one that ended has its EOS as the last token.
    """
    noise = sampling_noise(seed, [(row,) for row in range(len(prompts))], max_response_tokens)
    responses: list[list[int]] = [[] for _ in prompts]
    for batch in batches_by_length([len(prompt) for prompt in prompts], batch_size):
        sampled = sample(policy, [prompts[i] for i in batch], noise[batch], tokenizer, compute, temperature)
        for row, response in zip(batch, sampled, strict=True):
            responses[row] = response
    return responses


@torch.no_grad()
def sample(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    noise: NDArray[np.float64],
    tokenizer: Any,
    compute: ComputeConfig,
    temperature: float,
    prompt_batch_size: int | None = None,
    on_tokens: Callable[[list[int]], None] | None = None,
) -> list[list[int]]:
    """Sample one batch of responses; rows that ended leave the computation, some at a time.

    Args:
        policy: a causal language model in evaluation mode.
        prompts: B rows of token ids.
        noise: uniform numbers [B, R]; R is the longest response allowed.
        tokenizer: names pad and EOS.
        compute: device and precision.
        temperature: divides the logits.
        prompt_batch_size: prompts read at a time, which takes far more memory than decoding; None is all.
        on_tokens: called at each step with the new token ids of the rows that are still computed.
    """
    ids, mask = pad_left(prompts, tokenizer.pad_token_id, compute.device)
    num_steps = noise.shape[1]
    uniform = torch.from_numpy(noise).to(compute.device)
    tokens = torch.full(noise.shape, tokenizer.pad_token_id, device=compute.device)
    num_prompt_columns, position = ids.shape[1], positions(mask)
    repeats = _num_repeats(prompts)
    cache = decoding_cache(policy, len(prompts) // repeats, num_prompt_columns + num_steps, len(prompts))
    mask = torch.cat([mask, mask.new_ones(noise.shape)], dim=1)
    rows = torch.arange(len(prompts), device=compute.device)  # those that are computed
    alive = torch.ones_like(rows, dtype=torch.bool)  # those of them that have not ended
    with cached_casts(compute), autocast(compute):
        own = slice(None, None, repeats)
        logits = _read_prompts(
            policy, cache, ids[own], mask[own, :num_prompt_columns], position[own], prompt_batch_size
        )
        if repeats > 1:
            each = torch.arange(len(prompts), device=compute.device) // repeats
            logits = logits[each]
            cache.batch_select_indices(each)
        for step in range(num_steps):
            if step > 0:
                seen = mask[:, : num_prompt_columns + step]
                logits = _next_logits(policy, cache, ids, seen, position)
            sampled = sample_tokens(logits.float() / temperature, uniform[rows, step])
            tokens[rows, step] = sampled
            if on_tokens is not None:
                on_tokens(sampled.tolist())
            alive &= sampled != tokenizer.eos_token_id
            num_alive = int(alive.sum())
            if num_alive == 0:
                break
            ids, position = sampled[:, None], position[:, -1:] + 1
            if num_alive <= len(rows) * _COMPACT_BELOW:
                kept = alive.nonzero().squeeze(1)
                cache.batch_select_indices(kept)
                rows, alive, mask, ids, position = rows[kept], alive[kept], mask[kept], ids[kept], position[kept]
    return [_until_eos(row, tokenizer.eos_token_id) for row in tokens.tolist()]


def _num_repeats(prompts: Sequence[Sequence[int]]) -> int:
    """How often each prompt stands in a row, so that it needs to be read once; 1 where they do not all do so alike."""
    first = next((place for place, prompt in enumerate(prompts) if prompt != prompts[0]), len(prompts))
    groups = [prompts[start : start + first] for start in range(0, len(prompts), first)]
    alike = len(prompts) % first == 0 and all(prompt == group[0] for group in groups for prompt in group)
    return first if alike else 1


def sample_tokens(logits: Tensor, uniform: Tensor) -> Tensor:
    """Tokens [B] drawn by inverting the cumulative distribution of softmax(logits), which is summed in fp64.

    A token of probability 0 is never drawn.

    Args:
        logits: [B, V], the temperature already applied.
        uniform: numbers of `sampling_noise`, fp64, [B].

    Raises:
        FloatingPointError: a logit is not a number.
    """
    cumulative = logits.softmax(-1).double().cumsum(-1)
    if not torch.isfinite(cumulative[:, -1]).all():
        raise FloatingPointError("the policy's logits are not finite")
    threshold = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1)


def _read_prompts(
    policy: Any, cache: Any, ids: Tensor, mask: Tensor, position: Tensor, batch_size: int | None
) -> Tensor:
    if batch_size is None or not isinstance(cache, PreallocatedCache):
        return _next_logits(policy, cache, ids, mask, position)
    pieces = cache.pieces(batch_size)
    return torch.cat([_next_logits(policy, cache, ids[rows], mask[rows], position[rows]) for rows in pieces])


def _next_logits(policy: Any, cache: Any, ids: Tensor, mask: Tensor, position: Tensor) -> Tensor:
    """Logits [B, V] of what follows new tokens `ids`; `mask` covers those before them as well."""
    outputs = policy(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: Tensor = outputs.logits[:, -1]
    return logits


def _until_eos(row: list[int], eos_token_id: int) -> list[int]:
    return row[: row.index(eos_token_id) + 1] if eos_token_id in row else row

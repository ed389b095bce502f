"""Log-probabilities of responses.

Shapes: B rows, R response columns, V vocabulary. All are taken at the sampling temperature, from the distribution
that the tokens were drawn from.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlhf.compute import autocast
from rlhf.config import ComputeConfig
from rlhf.sequences import SequenceBatch, batches_by_length, pad_sequences


def response_logits(model: Any, batch: SequenceBatch, temperature: float) -> Tensor:
    """Logits that the response's tokens were drawn from, [B, R, V], fp32; the prompt's are never computed."""
    outputs = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
        logits_to_keep=batch.num_response_tokens + 1,
    )
    logits: Tensor = outputs.logits[:, :-1].float()
    return logits / temperature


def chosen_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability of each token that stands there, [B, R], from logits [B, R, V]."""
    return logits.gather(-1, tokens[..., None]).squeeze(-1) - logits.logsumexp(-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of each token's distribution in nats, [B, R], from logits [B, R, V]."""
    normalized = logits.log_softmax(-1)
    return -(normalized.exp() * normalized).sum(-1)


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
            logprobs = chosen_logprobs(response_logits(model, batch, temperature), batch.responses).cpu().numpy()
        for row, values in zip(index, logprobs, strict=True):
            rows[row] = values[: len(responses[row])]
    return rows

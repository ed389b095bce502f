"""PPO-ptx: the next-token loss on demonstrations, added to the policy's loss so that it does not forget them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf.config.model import Setup
from rlhf.config.rl import PPOConfig
from rlhf.modeling.batches import batches_by_length, pad_sequences
from rlhf.modeling.device import derive_seed
from rlhf.modeling.logprobs import chosen_logprobs, response_logits
from rlhf.modeling.precision import autocast
from rlhf.rl import distributed as processes


@dataclass(frozen=True)
class Demonstrations:
    """Prompts and completions as token ids, and what stands where nothing is."""

    pairs: Sequence[tuple[list[int], list[int]]]
    pad_token_id: int


def demonstration_loss(
    demonstrations: Demonstrations, config: PPOConfig, setup: Setup, policy: Any, update: int, number: int
) -> float:
    """Add the gradient of `ptx_coef` times the mean next-token loss on some demonstrations' completions.

    Args:
        demonstrations: all of them; a few are drawn.
        config: weight and batch sizes.
        setup: seed and compute.
        policy: learns.
        update: number of the update; with `number` and the seed it decides the draw.
        number: of the minibatch within the update.

    Returns:
        The mean loss, nats a token, before its weight. It is taken at temperature 1.

    Source:
        InstructGPT, 2203.02155, equation 2, its last term; on demonstrations in place of pretraining text.
    """
    pairs = [demonstrations.pairs[i] for i in _draw(len(demonstrations.pairs), config, setup, update, number)]
    num_tokens = sum(len(completion) for _, completion in pairs)
    own = [pairs[i] for i in processes.local_rows(torch.arange(len(pairs))).tolist()]
    total = torch.zeros((), dtype=torch.float64)
    for index in batches_by_length([len(p) + len(c) for p, c in own], config.micro_batch_size or config.minibatch_size):
        batch = pad_sequences(
            [own[i][0] for i in index], [own[i][1] for i in index], demonstrations.pad_token_id, setup.compute.device
        )
        with autocast(setup.compute):
            logits = response_logits(policy, batch)
        logprobs = chosen_logprobs(logits, batch.responses, temperature=1.0)
        loss: Tensor = -logprobs.masked_fill(~batch.response_mask, 0.0).sum()
        (config.ptx_coef * loss / num_tokens).backward()
        total += loss.detach().double().cpu()
    return float(processes.all_reduce_sum(total)) / num_tokens


def _draw(num_rows: int, config: PPOConfig, setup: Setup, update: int, number: int) -> list[int]:
    generator = torch.Generator().manual_seed(derive_seed(setup.seed, "ptx", update, number))
    size = min(config.ptx_batch_size or config.minibatch_size, num_rows)
    drawn: list[int] = torch.randperm(num_rows, generator=generator)[:size].tolist()
    return drawn

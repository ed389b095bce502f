"""PPO-ptx: the next-token loss on demonstrations, added to the policy's loss so that it does not forget them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf.compute import autocast, seeded
from rlhf.config import PPOConfig, Setup
from rlhf.logprobs import chosen_logprobs, response_logits
from rlhf.ppo import processes
from rlhf.sequences import batches_by_length, pad_sequences


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
    own = [pairs[i] for i in processes.share(torch.arange(len(pairs))).tolist()]
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
    return float(processes.summed(total)) / num_tokens


def _draw(num_rows: int, config: PPOConfig, setup: Setup, update: int, number: int) -> list[int]:
    generator = torch.Generator().manual_seed(seeded(setup.seed, "ptx", update, number))
    size = min(config.ptx_batch_size or config.minibatch_size, num_rows)
    drawn: list[int] = torch.randperm(num_rows, generator=generator)[:size].tolist()
    return drawn

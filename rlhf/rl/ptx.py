"""PPO-ptx: the next-token loss on demonstrations, added to the policy's loss so that it does not forget them."""

from typing import Any

import torch
from torch import Tensor

from rlhf.config.rl import RLConfig
from rlhf.modeling.batches import batches_by_length, pad_sequences
from rlhf.modeling.context import StageContext
from rlhf.modeling.logprobs import chosen_logprobs, response_logits
from rlhf.modeling.precision import autocast
from rlhf.policy import distributed as processes
from rlhf.rl.context import Demonstrations


def demonstration_loss(
    context: StageContext[RLConfig], demonstrations: Demonstrations, policy: Any, update: int, number: int
) -> float:
    """Add the gradient of `ptx_coef` times the mean next-token loss on some demonstrations' completions.

    Args:
        context: of the run.
        demonstrations: all of them; a few are drawn.
        policy: learns.
        update: number of the update; with `number` and the seed it decides the draw.
        number: of the minibatch within the update.

    Returns:
        The mean loss, nats per token, before its weight. It is taken at temperature 1.

    Source:
        InstructGPT, 2203.02155, equation 2, its last term; on demonstrations in place of pretraining text.
    """
    config, compute = context.config, context.compute
    generator = torch.Generator().manual_seed(context.seed("ptx", update, number))
    size = min(config.ptx_batch_size or config.minibatch_size, len(demonstrations))
    pairs = [demonstrations[i] for i in torch.randperm(len(demonstrations), generator=generator)[:size].tolist()]
    num_tokens = sum(len(completion) for _, completion in pairs)
    own = [pairs[i] for i in processes.local_rows(torch.arange(len(pairs))).tolist()]
    total = torch.zeros((), dtype=torch.float64)
    for index in batches_by_length([len(p) + len(c) for p, c in own], config.micro_batch_size or config.minibatch_size):
        batch = pad_sequences(
            [own[i][0] for i in index], [own[i][1] for i in index], context.tokenizer.pad_token_id, compute.device
        )
        with autocast(compute):
            logits = response_logits(policy, batch)
        logprobs = chosen_logprobs(logits, batch.responses, temperature=1.0)
        loss: Tensor = -logprobs.masked_fill(~batch.response_mask, 0.0).sum()
        (config.ptx_coef * loss / num_tokens).backward()
        total += loss.detach().double().cpu()
    return float(processes.all_reduce_sum(total)) / num_tokens

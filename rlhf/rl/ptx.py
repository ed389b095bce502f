"""PPO-ptx: the next-token loss on demonstrations or a corpus, added to the policy's loss so that it does not forget."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf.config.rl import RLConfig
from rlhf.modeling.batches import batches_by_length, pad_sequences
from rlhf.modeling.chat import chat_of
from rlhf.modeling.context import StageContext
from rlhf.modeling.logprobs import chosen_logprobs, response_logits
from rlhf.modeling.precision import autocast
from rlhf.policy import distributed as processes
from rlhf.policy.sampling import num_idle_passes
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
        InstructGPT, 2203.02155, equation 2, its last term; on demonstrations, or on a corpus as there.
    """
    config = context.config
    generator = torch.Generator().manual_seed(context.seed("ptx", update, number))
    size = min(config.ptx_batch_size or config.minibatch_size, len(demonstrations))
    pairs = [demonstrations[i] for i in torch.randperm(len(demonstrations), generator=generator)[:size].tolist()]
    num_tokens = sum(len(completion) for _, completion in pairs)
    own = [pairs[i] for i in processes.local_rows(torch.arange(len(pairs))).tolist()]
    total = torch.zeros((), dtype=torch.float64)
    for loss in _losses(context, own, policy):
        (config.ptx_coef * loss / num_tokens).backward()
        total += loss.detach().double().cpu()
    for _ in range(num_idle_passes(context, len(pairs), config.rows_per_pass)):
        for loss in _losses(context, pairs[:1], policy):
            (0.0 * loss).backward()
    return float(processes.all_reduce_sum(total)) / num_tokens


def pack(tokenizer: Any, texts: Sequence[str], length: int) -> Demonstrations:
    """Texts one after another, each with its EOS, in blocks of `length` tokens. A last block that is short is left out.

    Of each block the first token is given, and the loss is that of the others.
    """
    ids = chat_of(tokenizer).tokens.encode(texts)
    tokens = [token for text in texts for token in (*ids[text], tokenizer.eos_token_id)]
    starts = range(0, max(1, len(tokens) - length + 1), length) if len(tokens) > 1 else range(0)
    return [(tokens[start : start + 1], tokens[start + 1 : start + length]) for start in starts]


@torch.no_grad()
def corpus_loss(context: StageContext[RLConfig], blocks: Demonstrations, policy: Any) -> float:
    """Mean next-token loss on blocks of a corpus, nats per token: what it gains by training is the alignment tax."""
    total = sum(float(loss.double()) for loss in _losses(context, blocks, policy))
    return total / sum(len(block) for _, block in blocks)


def _losses(context: StageContext[RLConfig], pairs: Demonstrations, policy: Any) -> Iterator[Tensor]:
    """Sums of the loss over the tokens of rows of like length, nats."""
    config, compute = context.config, context.compute
    lengths = [len(prompt) + len(completion) for prompt, completion in pairs]
    for index in batches_by_length(lengths, config.rows_per_pass):
        batch = pad_sequences(
            [pairs[i][0] for i in index], [pairs[i][1] for i in index], context.tokenizer.pad_token_id, compute.device
        )
        with autocast(compute):
            logits = response_logits(policy, batch)
        logprobs = chosen_logprobs(logits, batch.responses, temperature=1.0)
        yield -logprobs.masked_fill(~batch.response_mask, 0.0).sum()

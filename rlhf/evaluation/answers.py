"""What a policy answers to prompts, and how likely it holds the answers of another one.

Shapes: N prompts, each with one response.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.config.evaluation import EvaluationConfig
from rlhf.modeling.context import StageContext
from rlhf.modeling.generation import generate_responses
from rlhf.modeling.logprobs import response_logprobs, summed

Ids = Sequence[Sequence[int]]


def respond(
    context: StageContext[EvaluationConfig], policy: Any, prompts: Ids, max_response_tokens: int, seed: int
) -> Ids:
    """Token ids of one sampled response to each prompt; one that ended has its EOS as the last token."""
    return generate_responses(
        policy,
        context.tokenizer,
        prompts,
        compute=context.compute,
        max_response_tokens=max_response_tokens,
        temperature=context.config.temperature,
        seed=seed,
        batch_size=context.config.batch_size,
    )


def total_logprobs(
    context: StageContext[EvaluationConfig], policy: Any, prompts: Ids, responses: Ids
) -> NDArray[np.float64]:
    """A policy's log-probability of each response as a whole, nats, [N]."""
    rows = response_logprobs(
        policy,
        context.compute,
        prompts,
        responses,
        temperature=context.config.temperature,
        pad_token_id=context.tokenizer.pad_token_id,
        batch_size=context.config.batch_size,
    )
    return summed(rows)

"""Several responses to each training prompt, their scores, and the best of them.

They are sampled and scored some prompts at a time. Each part is a file that appears whole among the checkpoints, so a
run that was killed samples the rest alone. Shapes: P prompts, n responses to each.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlhf.config.best_of_n import BestOfNConfig
from rlhf.data.schema import json_lines
from rlhf.errors import TrainingDivergedError
from rlhf.files.atomic import write_file
from rlhf.modeling.conversations import encode_prompts
from rlhf.policy.context import PolicyContext, Prompts
from rlhf.policy.parts import collect_parts
from rlhf.policy.sampling import sample_responses, score_responses
from rlhf.rewards.sources import apply_penalties, combine
from rlhf.text.lines import read_json_lines

Context = PolicyContext[BestOfNConfig]

_PROMPTS_IN_A_PART = 64
_BEST = "best.jsonl"


@dataclass(frozen=True)
class Samples:
    """All responses.

    Attributes:
        responses: token ids, P lists of n.
        scores: as training climbs them: weights, normalization, bounds and penalties, [P, n].
    """

    responses: Sequence[Sequence[list[int]]]
    scores: NDArray[np.float64]

    def best(self) -> list[list[int]]:
        """The response with the highest score to each prompt; of equal ones the first."""
        return [row[best] for row, best in zip(self.responses, self.scores.argmax(1).tolist(), strict=True)]


@dataclass(frozen=True)
class BestOf:
    """What is gained by sampling more.

    Attributes:
        num_samples: responses to each prompt, n.
        best: mean over the prompts of the best score of their first n responses.
        median: mean over the prompts of the median score of these.
        kl_bound: log n - (n - 1) / n, nats per response: no distribution of the best of n is further from the one
            sampled (Beirami et al. 2401.01879).
    """

    num_samples: int
    best: float
    median: float
    kl_bound: float


def collect_samples(context: Context, checkpoints: Path, seed: int) -> Samples:
    """Sample and score, or read what was sampled before.

    Args:
        context: with the prompts to answer.
        checkpoints: of the stage.
        seed: of the draws.

    Raises:
        TrainingDivergedError: the policy's logits are not finite.
        ScoringError: a source failed, or its scores are not one finite number for each response.
    """
    number = len(context.prompts.ids)
    try:
        rows = collect_parts(
            checkpoints / "samples",
            "policy",
            number,
            _PROMPTS_IN_A_PART,
            lambda prompts: _sample(context, prompts, seed),
        )
    except FloatingPointError as error:
        raise TrainingDivergedError(0, str(error), None) from error
    names = [source.config.name for source in context.models.sources]
    raw = {name: torch.tensor([row["scores"][name] for row in rows]) for name in names}
    ended, lengths = (torch.tensor([row[name] for row in rows]) for name in ("ended", "num_tokens"))
    scores = apply_penalties(
        combine(context.config, context.models.sources, raw, {})[0], ended, lengths, context.config
    )
    n = context.config.num_samples
    responses = [[row["response"] for row in rows[start : start + n]] for start in range(0, len(rows), n)]
    return Samples(responses, scores.double().numpy().reshape(-1, n))


def write_best(output: Path, prompts: Prompts, responses: Sequence[list[int]], tokenizer: Any) -> None:
    """Keep the best response to each prompt for later rounds, as text for people and as the token ids to learn.

    Args:
        output: of the stage.
        prompts: P of them.
        responses: token ids, P of them.
        tokenizer: of the policy.
    """
    rows = [
        {
            "prompt": conversation,
            "response": tokenizer.decode(response, skip_special_tokens=True),
            "response_ids": response,
        }
        for conversation, response in zip(prompts.conversations, responses, strict=True)
    ]
    write_file(output / _BEST, "".join(json_lines(rows)))


def read_best(rounds: Sequence[Path], tokenizer: Any) -> list[tuple[Sequence[int], list[int]]]:
    """The best responses of earlier rounds, as token ids of prompt and response; other methods have left none.

    Args:
        rounds: the rounds' outputs.
        tokenizer: of the policy.
    """
    files = [folder / _BEST for folder in rounds if (folder / _BEST).is_file()]
    rows = [row for file in files for row in read_json_lines(file)]
    prompts = encode_prompts(tokenizer, [row["prompt"] for row in rows]) if rows else []
    return [(prompt, row["response_ids"]) for prompt, row in zip(prompts, rows, strict=True)]


def gain_by_number(scores: NDArray[np.float64]) -> list[BestOf]:
    """The gain of 1, 2, 4, ... and of all n responses.

    Args:
        scores: [P, n].
    """
    n = scores.shape[1]
    return [
        BestOf(
            num_samples=size,
            best=float(scores[:, :size].max(1).mean()),
            median=float(np.median(scores[:, :size], axis=1).mean()),
            kl_bound=math.log(size) - (size - 1) / size,
        )
        for size in sorted({2**power for power in range(n.bit_length())} | {n})
    ]


def _sample(context: Context, prompts: range, seed: int) -> list[dict[str, object]]:
    """Responses to some of the prompts, a row each, with the scores of every source."""
    n = context.config.num_samples
    repeated: Prompts = context.prompts.pick([prompt for prompt in prompts for _ in range(n)])
    keys: list[tuple[str | int, ...]] = [("best_of_n", prompt, number) for prompt in prompts for number in range(n)]
    rows = sample_responses(context, repeated, keys, seed)
    scores = {name: values.tolist() for name, values in score_responses(context, rows).items()}
    return [
        {
            "response": list(response),
            "ended": ended,
            "num_tokens": len(response),
            "scores": {name: values[row] for name, values in scores.items()},
        }
        for row, (response, ended) in enumerate(zip(rows.responses, rows.ended.tolist(), strict=True))
    ]

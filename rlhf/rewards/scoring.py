"""The one place where responses get their scores: from reward models, and from functions that packages offer.

PPO, evaluation, audit and gates all score here, so that each refuses a score that is not finite, another number of
scores than of responses, and a dialogue longer than the reward model reads.

Shapes: N rows of token ids, B rows of a batch, T tokens of the longest row.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlhf.config.model import ComputeConfig
from rlhf.config.policy import RewardSourceConfig
from rlhf.errors import ModelError, RLHFError
from rlhf.modeling.batches import batches_by_length
from rlhf.modeling.conversations import Conversation, encode_dialogues
from rlhf.modeling.models import load_reward_model, score
from rlhf.modeling.precision import autocast
from rlhf.modeling.tokenizer import load_source_tokenizer
from rlhf.rewards import functions as reward_functions

RewardFunction = Callable[[Sequence[Conversation], Sequence[str]], Iterable[float]]
"""Takes prompts and the texts of their responses, and returns a finite number for each. docs/reward-functions.md."""

Rows = Sequence[Sequence[int]]


class ScoringError(RLHFError):
    """A reward model or function failed, or gave something else than one finite number for each response."""


@dataclass(frozen=True)
class Answers:
    """One answer to each prompt by one model; N of them.

    Attributes:
        texts: without special tokens, [N].
        ended: the answer ended by itself, and was not cut off, [N].
    """

    texts: Sequence[str]
    ended: Sequence[bool]


def score_batch(reward_model: Any, name: str, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Scores [B] of a padded batch, fp32.

    Args:
        reward_model: a sequence classifier with one label.
        name: of the reward model, for messages.
        input_ids: prompt and response, [B, T], without columns that are padding alone.
        attention_mask: True where there is a token, [B, T].

    Raises:
        ModelError: a dialogue is longer than the model reads.
        ScoringError: the scores are not one finite number for each row.
    """
    num_rows, longest = input_ids.shape
    limit = getattr(reward_model.config, "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise ModelError(
            f"the reward model {name!r} reads {limit} tokens, and a dialogue has {longest} in its tokens; lower "
            f"model.max_length or rl.max_response_tokens, or take another reward model"
        )
    scores = score(reward_model, input_ids, attention_mask)
    if len(scores) != num_rows:
        raise ScoringError(
            f"the reward model {name!r} gave {len(scores)} scores for {num_rows} responses; it must have one label"
        )
    if not bool(scores.isfinite().all()):
        raise ScoringError(f"the reward model {name!r} gave a score that is not finite; its weights are broken")
    return scores


@torch.no_grad()
def score_rows(
    reward_model: Any, name: str, compute: ComputeConfig, rows: Rows, batch_size: int
) -> NDArray[np.float32]:
    """Scores [N] of rows of token ids, in batches of like length. For `name` and errors see `score_batch`."""
    scores = np.empty(len(rows), dtype=np.float32)
    for batch in batches_by_length([len(row) for row in rows], batch_size):
        width = len(rows[batch[0]])
        # Padding comes last and is seen by no token, so any id serves.
        ids = torch.tensor([[*rows[i], *[0] * (width - len(rows[i]))] for i in batch])
        lengths = torch.tensor([len(rows[i]) for i in batch])
        mask = torch.arange(width) < lengths[:, None]
        with autocast(compute):
            of_batch = score_batch(reward_model, name, ids.to(compute.device), mask.to(compute.device))
        scores[batch] = of_batch.cpu().numpy()
    return scores


def score_rows_once(
    folder: Path | str, compute: ComputeConfig, rows: Rows, batch_size: int, revision: str | None = None
) -> NDArray[np.float64]:
    """A saved reward model's scores of rows, [N]. Equal rows are scored once, so that they tie to the last bit.

    Raises:
        ModelError: the model cannot be loaded, or a row is longer than it reads.
        ScoringError: the scores are not one finite number for each row.
    """
    model = load_reward_model(folder, compute, revision)
    keys = [tuple(row) for row in rows]
    different = list(dict.fromkeys(keys))
    scores = score_rows(model, str(folder), compute, different, batch_size).astype(np.float64)
    by_row = dict(zip(different, scores, strict=True))
    return np.array([by_row[key] for key in keys])


def score_answers(
    source: RewardSourceConfig,
    compute: ComputeConfig,
    prompts: Sequence[Conversation],
    answers: Answers,
    batch_size: int,
) -> NDArray[np.float64]:
    """Scores of texts, [N], by a function that a package offers, or by a reward model in its own tokens.

    Raises:
        ConfigError: the function is not installed.
        ModelError: the reward model cannot be used.
        ScoringError: the scores are not one finite number for each answer.
    """
    if source.path is None:
        return np.array(call_function(source.name, reward_functions.load_function(source.name), prompts, answers.texts))
    rows = encode_dialogues(load_source_tokenizer(source), prompts, answers.texts, answers.ended)
    return score_rows_once(source.path, compute, rows, batch_size, source.revision)


def call_function(
    name: str, function: RewardFunction, prompts: Sequence[Conversation], texts: Sequence[str]
) -> list[float]:
    """A function's scores [N] of texts. It gets copies of the prompts, so that it cannot change what others read.

    Raises:
        ScoringError: it raised, or did not return one finite number for each text.
    """
    try:
        returned = function([[dict(message) for message in prompt] for prompt in prompts], list(texts))
        scores = list(returned) if isinstance(returned, Iterable) else None
    except Exception as error:
        raise ScoringError(
            f"the reward function {name!r} raised {type(error).__name__}: {error}; it was given {len(texts)} responses"
        ) from error
    if scores is None:
        raise ScoringError(f"the reward function {name!r} returned {returned!r}; it must return a list of numbers")
    if len(scores) != len(texts):
        raise ScoringError(
            f"the reward function {name!r} returned {len(scores)} numbers for {len(texts)} responses; it must return "
            f"one for each"
        )
    for text, value in zip(texts, scores, strict=True):
        if not _is_score(value):
            raise ScoringError(
                f"the reward function {name!r} returned {value!r} for the response {text[:80]!r}; it must return a "
                f"finite number that fp32 holds"
            )
    return [float(value) for value in scores]


def _is_score(value: object) -> bool:
    """A real number, Python's or NumPy's, that fp32 holds; a tensor is none, and neither is a truth value."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return abs(float(value)) <= torch.finfo(torch.float32).max
    except OverflowError:
        return False

"""Judges of texts, whoever wrote them and in whichever tokens: reward models, and functions found by name."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf.config.model import ComputeConfig
from rlhf.config.rl import RewardSourceConfig
from rlhf.errors import ModelError, RLHFError
from rlhf.modeling.conversations import Conversation, encode_dialogues
from rlhf.modeling.models import load_reward_model, score_rows
from rlhf.modeling.tokenizer import load_source_tokenizer
from rlhf.rewards import functions as reward_functions

Ids = tuple[int, ...]
Rows = Sequence[Ids]


class JudgeError(RLHFError):
    """A judge failed, or gave something else than a finite number for each response."""


@dataclass(frozen=True)
class Answers:
    """One answer a prompt by one model; N of them.

    Attributes:
        texts: without special tokens, [N].
        ended: the answer ended by itself, and was not cut off, [N].
    """

    texts: Sequence[str]
    ended: Sequence[bool]


def score_rows_once(
    folder: Path | str,
    compute: ComputeConfig,
    rows: Rows,
    pad_token_id: int,
    batch_size: int,
    revision: str | None = None,
) -> NDArray[np.float64]:
    """A reward model's scores of rows of token ids, [N]. Equal rows are scored once, so that they tie to the last bit.

    Raises:
        ModelError: the model cannot be loaded, or a row is longer than it can read.
        JudgeError: a score is not finite.
    """
    model = load_reward_model(folder, compute, revision)
    longest, limit = max(map(len, rows)), getattr(model.config, "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise ModelError(
            f"{folder}: the reward model reads {limit} tokens, and a dialogue has {longest} in its tokens; lower "
            f"model.max_length or ppo.max_response_tokens, or take another judge"
        )
    different = list(dict.fromkeys(rows))
    found = score_rows(model, compute, different, pad_token_id, batch_size)
    by_row = dict(zip(different, found.tolist(), strict=True))
    scores = np.array([by_row[row] for row in rows], dtype=np.float64)
    if not np.isfinite(scores).all():
        raise JudgeError(f"{folder}: the reward model gave a score that is not finite; its weights are broken")
    return scores


def score_responses(
    judge: RewardSourceConfig,
    compute: ComputeConfig,
    prompts: Sequence[Conversation],
    answers: Answers,
    batch_size: int,
) -> NDArray[np.float64]:
    """Scores of answers, [N], by a function that a package offers, or by a reward model in its own tokens.

    Raises:
        ConfigError: the function is not installed.
        ModelError: the reward model cannot be used.
        JudgeError: the judge failed.
    """
    if judge.path is None:
        return _by_function(judge.name, prompts, answers)
    tokenizer = load_source_tokenizer(judge)
    rows = [tuple(ids) for ids in encode_dialogues(tokenizer, prompts, answers.texts, answers.ended)]
    # The rows of a batch are masked, so any token will do where there is no pad token.
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return score_rows_once(judge.path, compute, rows, pad, batch_size, judge.revision)


def _by_function(name: str, prompts: Sequence[Conversation], answers: Answers) -> NDArray[np.float64]:
    """What a function says. It gets copies of the prompts, so that it cannot change what others read."""
    function = reward_functions.load(name)
    try:
        returned = function([[dict(message) for message in prompt] for prompt in prompts], list(answers.texts))
        values = list(returned) if isinstance(returned, Iterable) else []
    except Exception as error:
        raise JudgeError(f"the function {name!r} raised {type(error).__name__}: {error}; mend its package") from error
    wrong = [value for value in values if not _is_finite(value)]
    if len(values) != len(answers.texts) or wrong:
        got = f"{wrong[0]!r} among them" if wrong else f"{len(values)} numbers"
        raise JudgeError(
            f"the function {name!r} was given {len(answers.texts)} responses and returned {got}; it must return a list "
            f"with a finite number for each"
        )
    return np.array([float(value) for value in values], dtype=np.float64)


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))

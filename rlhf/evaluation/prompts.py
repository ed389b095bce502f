"""Which test prompts a policy is evaluated on: always the same ones of the same file, whatever the seed."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.conversations import Conversation
from rlhf.evaluation.gold import easy_questions

_EASY_SHARE = 1 / 3


@dataclass(frozen=True)
class PromptChoice:
    """Prompts of an evaluation.

    Attributes:
        prompts: conversations that end with a user's message, in an order that a hash decides.
        notes: in which way they are not what was asked for, in sentences for the report.
    """

    prompts: Sequence[Conversation]
    notes: tuple[str, ...]


def choose_prompts(rows: Sequence[Any], num_prompts: int, has_gold: bool) -> PromptChoice:
    """Choose up to `num_prompts` of the test prompts.

    Args:
        rows: of the test split.
        num_prompts: how many, at most.
        has_gold: they are questions of the calibrated arithmetic, and a third of those chosen shall be easy.
    """
    ordered = sorted((row["prompt"] for row in rows), key=_hash)
    return _choose_a_third_easy(ordered, num_prompts) if has_gold else _choose_first(ordered, num_prompts)


def _choose_first(ordered: Sequence[Conversation], num_prompts: int) -> PromptChoice:
    notes = (_shortage(num_prompts, len(ordered)),) if len(ordered) < num_prompts else ()
    return PromptChoice(ordered[:num_prompts], notes)


def _choose_a_third_easy(ordered: Sequence[Conversation], num_prompts: int) -> PromptChoice:
    """The most prompts of which a third is easy; where one kind is absent, the first ones, and a note that says so."""
    easy = easy_questions(ordered)
    num_easy, num_hard = int(easy.sum()), int((~easy).sum())
    if not num_easy or not num_hard:
        choice = _choose_first(ordered, num_prompts)
        kind = "hard" if num_hard else "easy"
        return PromptChoice(
            choice.prompts, (*choice.notes, f"The test split has {kind} questions only, where a third should be easy.")
        )
    total = max(n for n in range(1, num_prompts + 1) if _easy_of(n) <= num_easy and n - _easy_of(n) <= num_hard)
    left = {True: _easy_of(total), False: total - _easy_of(total)}
    chosen = []
    for prompt, is_easy in zip(ordered, easy.tolist(), strict=True):
        if left[is_easy]:
            left[is_easy] -= 1
            chosen.append(prompt)
    notes = (_shortage(num_prompts, total) + " A third of them are easy.",) if total < num_prompts else ()
    return PromptChoice(chosen, notes)


def _easy_of(total: int) -> int:
    return round(total * _EASY_SHARE)


def _shortage(wanted: int, found: int) -> str:
    return f"{wanted:,} test prompts were asked for, and the test split allows {found:,}."


def _hash(prompt: Conversation) -> bytes:
    return hashlib.sha256(b"evaluation" + json.dumps(prompt, sort_keys=True).encode()).digest()

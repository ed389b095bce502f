"""Answers in a row, and columns that say the same thing of each of two answers."""

from collections.abc import Sequence
from itertools import chain

from rlhf.data.importing import dialogues
from rlhf.data.importing.columns import Survey, looks_like_verdict
from rlhf.data.importing.dialogues import RowDroppedError, answer_of, split_dialogue, value_in
from rlhf.data.importing.verdicts import UNREADABLE, names_the_worse, words_of
from rlhf.data.schema import Row

# Of each answer, and no verdict on it: chosen_model, rejected_length.
_SCORES = frozenset(["score", "scores", "rating", "ratings", "reward", "rewards", "grade"])


def answer_in(row: Row, name: str, is_dialogue: bool) -> dialogues.Messages:
    """The answer in a column.

    Args:
        row: of the file.
        name: the column.
        is_dialogue: texts of this column are dialogues with turn markers.

    Raises:
        RowDroppedError: it is not there, or no answer.
    """
    value = value_in(row, name)
    return split_dialogue(value, name) if is_dialogue and isinstance(value, str) else answer_of(value, name)


def after_marker(answer: dialogues.Messages) -> dialogues.Messages:
    """An answer that stands behind a prompt's `Assistant:`, without the space that belongs to the marker."""
    return [{**message, "content": message["content"].removeprefix(" ")} for message in answer]


def scores_and_properties(survey: Survey, names: Sequence[str]) -> tuple[list[tuple[str, str]], set[str]]:
    """Columns that say something of the better answer and the same of the worse one: scores, and all else."""
    sides = [set(words_of(name)) for name in names]
    marks = [side - other for side, other in zip(sides, reversed(sides), strict=True)]
    scores: list[tuple[str, str]] = []
    properties: set[str] = set()
    for name in survey:
        words = words_of(name)
        if name in names or not marks[0] & set(words):
            continue
        other = next((n for n in survey if n not in names and _mirrored(words, marks) == words_of(n)), None)
        rest = set(words) - marks[0]
        if other is None or not rest:
            continue
        numbers = all(survey[n].num_numbers >= 0.95 * survey[n].num_rows for n in (name, other))
        if rest & _SCORES and numbers and not names_the_worse("_".join(rest)):
            scores.append((name, other))
        elif not looks_like_verdict("_".join(sorted(rest))):
            properties |= {name, other}
    return scores, properties


def _mirrored(words: Sequence[str], marks: Sequence[set[str]]) -> list[str]:
    return [next(iter(marks[1])) if word in marks[0] else word for word in words]


def number_in(value: object, name: str) -> float:
    """A value as a number.

    Raises:
        RowDroppedError: it is none.
    """
    try:
        number = float("nan") if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except ValueError:
        number = float("nan")
    if number != number:
        raise RowDroppedError(UNREADABLE, f'"{name}" is {value!r}'[:80])
    return number


def attributes_in(survey: Survey) -> set[str]:
    """The columns that go into a preference as they are."""
    return {name for name in ("margin", "annotator", "criteria", "source") if name in survey}


def listed(scores: Sequence[tuple[str, str]]) -> str:
    """The columns as a sentence names them."""
    return " and ".join(f'"{name}"' for name in chain(*scores))

"""A form of file: the columns that it reads and understands, and how it turns a row into rows of a data folder."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from rlhf.data.importing.dialogues import (
    EMPTY_RESPONSE,
    NO_ANSWER,
    SAME_RESPONSES,
    Messages,
    RowDroppedError,
    as_number,
)
from rlhf.data.importing.verdicts import Verdicts
from rlhf.data.schema import TIE, Row

Numbered = tuple[int, Row]

UNPAIRED = "the prompt has one rated answer alone"
CATEGORIES = frozenset(["category", "subset"])
"""Columns that say what a row is about; benchmarks have subsets."""
ATTRIBUTES = frozenset(["margin", "probability", "annotator", "criteria", "source"]) | CATEGORIES
"""Columns that go into a preference as they are."""
_NUMBERS = (
    ("margin", 0.0, sys.float_info.max, "finite number of at least 0"),
    ("probability", TIE, 1.0, "number from 0.5 to 1"),
)


@dataclass(frozen=True)
class Form:
    """A form that a file's columns fit.

    Attributes:
        format: its name, one of `rlhf.data.importing.formats.FORMATS`.
        kind: of the rows that it gives: demonstrations, labels, preferences or prompts.
        read: columns that it reads where a file has them.
        convert: turns a row, without nulls, into rows of ours.
        known: other columns that it understands, and that change nothing of what a row means.
        verdicts: the readers of its verdicts, which count them.
        note: what a person should know of how the file was read; empty where there is nothing.
        group: makes one row of several of the file, where the form needs that.
        refusal: why a file of this form is not read after all, with what to do; empty where it is.
    """

    format: str
    kind: str
    read: Set[str]
    convert: Callable[[Row], list[Row]]
    known: Set[str] = frozenset()
    verdicts: Sequence[Verdicts] = ()
    note: str = ""
    group: Callable[[Iterable[Numbered]], Iterator[Numbered]] | None = None
    refusal: str = ""


def demonstration(prompt: Messages, completion: Messages) -> Row:
    """A prompt and its answer.

    Raises:
        RowDroppedError: they cannot be used.
    """
    _check(prompt, [completion])
    return {"prompt": prompt, "completion": completion}


def comparison(row: Row, prompt: Messages, answers: Sequence[Messages], ranks: Sequence[float]) -> Row:
    """A preference between two or more answers: a pair, a ranking, or a tie.

    Args:
        row: of the file; margin, probability, annotator, criteria, source and category are taken from it.
        prompt: what was answered.
        answers: the answers, at least two.
        ranks: their ranks, the smallest the best; equal ones are ties.

    Raises:
        RowDroppedError: it cannot be used.
    """
    _check(prompt, answers)
    named = {**row, "category": row.get("category") or row.get("subset")}
    given = attributes(named, ("annotator", "criteria", "source", "category"))
    if len(answers) == 2 and ranks[0] != ranks[1]:
        chosen, rejected = answers if ranks[0] < ranks[1] else reversed(answers)
        if chosen == rejected:
            raise RowDroppedError(SAME_RESPONSES, is_fault=False)
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected} | _numbers(row) | given
    places = sorted(set(ranks))
    return {"prompt": prompt, "responses": list(answers), "ranks": [places.index(rank) + 1 for rank in ranks]} | given


def attributes(row: Row, names: Sequence[str]) -> Row:
    """The values of some columns, as text."""
    return {
        name: str(row[name])
        for name in names
        if isinstance(row.get(name), str | int) and not isinstance(row[name], bool) and row[name] != ""
    }


def _check(prompt: Messages, answers: Sequence[Messages]) -> None:
    """Refuse an empty prompt, a prompt that ends with an answer, and an answer that is not one message with text."""
    if not any(message["content"].strip() for message in prompt):
        raise RowDroppedError("the prompt is empty")
    if prompt[-1]["role"] == "assistant":
        raise RowDroppedError(NO_ANSWER, "the prompt ends with the assistant's turn")
    for answer in answers:
        if len(answer) != 1 or answer[0]["role"] != "assistant":
            roles = ", ".join(message["role"] for message in answer)
            raise RowDroppedError(NO_ANSWER, roles or "an empty list")
        if not answer[0]["content"].strip():
            raise RowDroppedError(EMPTY_RESPONSE, is_fault=False)


def _numbers(row: Row) -> Row:
    numbers = {}
    for name, low, high, what in _NUMBERS:
        if row.get(name, "") != "":
            number = as_number(row[name])
            if number is None or not low <= number <= high:
                raise RowDroppedError(f'the field "{name}" is not a {what}', repr(row[name])[:40])
            numbers[name] = float(number)
    return numbers

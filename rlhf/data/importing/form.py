"""What a form of file is: the columns that it reads and understands, and how a row of it becomes rows of ours."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from rlhf.data.importing import dialogues
from rlhf.data.importing.dialogues import Messages, RowDroppedError
from rlhf.data.importing.verdicts import Verdicts
from rlhf.data.schema import Row

# Kind (demonstrations, labels, preferences, prompts) and row.
Converted = list[tuple[str, Row]]
Numbered = tuple[int, Row]

UNWANTED = "the label says that the response is not wanted"
UNPAIRED = "the prompt has one rated answer alone"


@dataclass(frozen=True)
class Form:
    """A form that a file's columns fit.

    Attributes:
        format: its name, one of `rlhf.data.importing.formats.FORMATS`.
        kind: of the rows that it gives.
        read: columns that it reads.
        convert: turns a row, without nulls, into rows of ours.
        known: other columns that it understands, and that change nothing of what a row means.
        verdicts: the readers of its verdicts, which count them.
        notes: what a person should know of how the file was read.
        group: makes one row of several of the file, where the form needs that.
        refusal: why a file of this form is not read after all, with what to do; empty where it is.
    """

    format: str
    kind: str
    read: frozenset[str]
    convert: Callable[[Row], Converted]
    known: frozenset[str] = frozenset()
    verdicts: tuple[Verdicts, ...] = ()
    notes: tuple[str, ...] = ()
    group: Callable[[Iterable[Numbered]], Iterator[Numbered]] | None = None
    refusal: str = ""


def demonstration(prompt: Messages, completion: Messages) -> tuple[str, Row]:
    """A demonstration."""
    check_prompt(prompt)
    check_answer(completion)
    return "demonstrations", {"prompt": prompt, "completion": completion}


def label(prompt: Messages, completion: Messages, wanted: bool, row: Row) -> tuple[str, Row]:
    """Unpaired feedback."""
    check_prompt(prompt)
    check_answer(completion)
    made: Row = {"prompt": prompt, "completion": completion, "label": wanted}
    return "labels", made | _attributes(row, ("annotator", "source"))


def comparison(row: Row, prompt: Messages, answers: Sequence[Messages], ranks: Sequence[float]) -> tuple[str, Row]:
    """What somebody said of two or more answers: a pair, a ranking, or a tie.

    Args:
        row: of the file; margin, annotator, criteria and source are taken from it.
        prompt: what was answered.
        answers: the answers, at least two.
        ranks: their ranks, the smallest the best; equal ones are ties.

    Raises:
        RowDroppedError: it cannot be used.
    """
    check_prompt(prompt)
    for answer in answers:
        check_answer(answer)
    given = _attributes(row, ("annotator", "criteria", "source"))
    if len(answers) == 2 and ranks[0] != ranks[1]:
        chosen, rejected = answers if ranks[0] < ranks[1] else reversed(answers)
        if chosen == rejected:
            raise RowDroppedError(dialogues.SAME_RESPONSES, is_fault=False)
        return "preferences", {"prompt": prompt, "chosen": chosen, "rejected": rejected} | _margin(row) | given
    places = sorted(set(ranks))
    dense = [places.index(rank) + 1 for rank in ranks]
    return "preferences", {"prompt": prompt, "responses": list(answers), "ranks": dense} | given


def check_prompt(prompt: Messages) -> None:
    """Refuse a prompt that says nothing, or that the assistant has the last word of."""
    if not any(message["content"].strip() for message in prompt):
        raise RowDroppedError(dialogues.EMPTY_PROMPT)
    if prompt[-1]["role"] == "assistant":
        raise RowDroppedError(dialogues.NO_ANSWER, "the prompt ends with the assistant's turn")


def check_answer(answer: Messages) -> None:
    """Refuse what is not one message of the assistant with something in it."""
    if len(answer) != 1 or answer[0]["role"] != "assistant":
        raise RowDroppedError(dialogues.NO_ANSWER, ", ".join(message["role"] for message in answer) or "an empty list")
    if not answer[0]["content"].strip():
        raise RowDroppedError(dialogues.EMPTY_RESPONSE, is_fault=False)


def _margin(row: Row) -> Row:
    value = row.get("margin", "")
    if value == "":
        return {}
    try:
        margin = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        margin = None
    # A margin that is not a number is at no distance from 0 either.
    if margin is None or not 0 <= margin < float("inf"):
        raise RowDroppedError('the field "margin" is not a finite number of at least 0', repr(value)[:40])
    return {"margin": margin}


def _attributes(row: Row, names: Sequence[str]) -> Row:
    found = {name: row[name] for name in names if name in row}
    return {
        name: value if isinstance(value, str) else str(value)
        for name, value in found.items()
        if isinstance(value, str | int) and not isinstance(value, bool) and value != ""
    }

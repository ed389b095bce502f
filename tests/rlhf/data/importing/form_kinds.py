"""What a form is: how comparisons are written, once the choices that hold for a whole file are made."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from form_texts import Comparison, Message, Row


@dataclass(frozen=True)
class Form:
    """One form, as one file has it.

    Attributes:
        write: the rows of one comparison.
        format: what `--format` calls it; empty where it has no name.
        vital: columns without which a row says nothing.
        num_answers: the fewest and the most of a comparison.
        ties: answers may be equally good.
        turns: prompts may have several turns.
        system: prompts may begin with a system message.
        columns: what a person has to give as `--columns`.
        readable: `always`, unless the file has other faults; `perhaps`, or refused; `never`: the file does not say
            what its verdicts mean.
        both_ways: the file holds a comparison that either answer has won.
        fits: whether the form can hold a text.
        tabular: people have it as CSV too.
        times: how many people said each comparison.
    """

    write: Callable[[Comparison], list[Row]]
    format: str
    vital: tuple[str, ...]
    num_answers: tuple[int, int] = (2, 2)
    ties: bool = False
    turns: bool = False
    system: bool = False
    columns: str = ""
    readable: str = "always"
    both_ways: bool = False
    fits: Callable[[str], bool] = lambda text: True
    tabular: bool = True
    times: int = 1


Maker = Callable[[Random], Form]


def assistant(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def maybe(rng: Random, *names: str) -> set[str]:
    """Some of the columns that a form may have."""
    return {name for name in names if rng.random() < 0.5}


def kept(row: Row, optional: set[str], present: set[str]) -> Row:
    """A row without the optional columns that the file does not have."""
    return {name: value for name, value in row.items() if name not in optional or name in present}

"""The verdict of a judge on two answers: how it is written, and what it means.

A verdict that can be read in two ways is not read: the file is refused, with what to say about it.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from rlhf.data.importing.dialogues import UNREADABLE, RowDroppedError
from rlhf.errors import DataError

Outcome = Literal["first", "second", "tie"]


def word_set(text: str) -> frozenset[str]:
    """The words of a text, each once."""
    return frozenset(text.split())


RANKS: Mapping[Outcome, tuple[float, float]] = {"first": (1, 2), "second": (2, 1), "tie": (1, 1)}
"""The ranks of two answers by verdict: 1 is the better one."""

_ORDINALS: Mapping[Outcome, tuple[str, ...]] = {"first": ("first", "left", "a"), "second": ("second", "right", "b")}
_NAMES: Mapping[Outcome | None, str] = {"first": "first", "second": "second", "tie": "ties", None: "unusable"}
_STEMS = ("model", "response", "answer", "output", "assistant")
_OTHER: Mapping[Outcome, Outcome] = {"first": "second", "second": "first", "tie": "tie"}
_PLACES = ("first", "left", "second", "right")
_IN_ORDER = (("0", "1"), ("1", "2"), ("a", "b"), ("left", "right"), ("first", "second"))
# Largest share of other numbers, such as 99 for "not judged", among verdicts that are understood.
_MAX_STRANGE = 0.05
_TIES = ("tie", "ties", "tied", "equal", "same", "draw", "both", "neither", "bothgood", "bothbad", "tiebothbad")
# Words of columns whose numbers name an answer; "label: 1" may also say that the first answer is better.
_NAMING = word_set(
    "best better choice chosen id ids idx index prefer preference preferences preferred selected selection winner"
)
# Words of columns that name the worse answer or measure how bad an answer is: "loser: A", "toxicity_score_a: 0.9".
_OF_THE_WORSE = word_set(
    """
    bad bias biased cost dislike disliked dispreferred distance error errors fail failed flagged harm harmful hate
    hallucination incorrect lose loser loses loss losses lost lower lowest never non not penalty perplexity refusal
    reject rejected rejection rejects risk spam toxic toxicity undesirable unhelpful unpreferred unsafe unwanted
    violation violence worse worst wrong
    """
)
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")


def normalized(value: object) -> str:
    """A value as verdicts are told apart by: "[[A]]", "a" and "A " are one."""
    if isinstance(value, bool):
        return str(value).lower()
    shown = str(value).strip().casefold()
    return re.sub(r"\.0+$", "", shown) if _NUMBER.fullmatch(shown) else re.sub(r"[\W_]+", "", shown)


def exact(value: object) -> str:
    """A value as a person writes it in `--columns`: symbols tell values apart, and 1.0 is 1."""
    shown = str(value).lower() if isinstance(value, bool) else str(value).strip()
    return re.sub(r"\.0+$", "", shown) if _NUMBER.fullmatch(shown) else shown


class Verdicts:
    """Reads the verdicts of one column, counts them, and says in the end whether they were to be told apart.

    Attributes:
        column: where they stand in the rows.
        shown: its name in the file.
        tally: values as read, with what each was taken for; None for those that could not be read.
    """

    def __init__(
        self, column: str, answers: tuple[str, str], given: Mapping[str, Outcome] | None = None, shown: str = ""
    ) -> None:
        """Settle what each value says.

        Args:
            column: name of the column in the rows.
            answers: names of the columns of the two answers.
            given: what a person says that values mean; nothing else is understood then.
            shown: name of the column in the file, where that is another.
        """
        self.column = column
        self.shown = shown or column
        self.tally: Counter[tuple[str, Outcome | None]] = Counter()
        self._given = given is not None
        self._key = exact if given is not None else normalized
        self._meaning = {exact(value): said for value, said in given.items()} if given else _meanings(answers)
        marks = tuple(sorted(_marks(answers)))
        self._zero_based = not given and marks == ("0", "1")
        self._numbered_from_1 = marks == ("1", "2")
        self._names_answers = bool(_NAMING & set(words_of(self.shown)))
        self._seen: set[str] = set()

    def read(self, value: object) -> Outcome:
        """The meaning of a value.

        Raises:
            RowDroppedError: it cannot be read.
        """
        key = self._key(value)
        if isinstance(value, list | dict):
            raise RowDroppedError(UNREADABLE, f'"{self.shown}" is a list or an object')
        if isinstance(value, bool) and not self._given:
            key = f"bool {key}"
        said = self._meaning.get(key)
        self.tally[str(value).strip()[:40], said] += 1
        if said is None:
            raise RowDroppedError(UNREADABLE, f'"{self.shown}" is {value!r}'[:80])
        self._seen.add(key)
        return said

    def share_known(self, values: Collection[object]) -> float:
        """Share of different values that say something; 0 where there are none."""
        known = [value for value in values if not isinstance(value, bool) and normalized(value) in self._meaning]
        return len(known) / len(values) if values else 0.0

    def check(self, source: str) -> None:
        """Refuse a numbering whose meaning only its owner knows.

        Raises:
            DataError: the numbers may mean one thing or its opposite.
        """
        numbers = {key for key in self._seen if key.isdecimal()}
        if self._given or not numbers:
            return
        example = f"--columns verdict={self.shown}:0=first,1=second (or 1=first,0=tie, as it was meant)"
        strange = {value: n for (value, said), n in self.tally.items() if said is None and _NUMBER.fullmatch(value)}
        if sum(strange.values()) > _MAX_STRANGE * self.tally.total():
            raise DataError(
                f'{source}: "{self.shown}" holds {", ".join(sorted(strange)[:8])} beside {", ".join(sorted(numbers))}, '
                f"so it is not a choice between two answers; say what each value means with {example}"
            )
        values = " and ".join(sorted(numbers))
        if self._zero_based and not self._names_answers:
            raise DataError(
                f'{source}: "{self.shown}" holds the numbers {values}, of answers that are numbered 0 and 1; it is not '
                f"clear whether 1 is the second answer or says yes to the first; say it with {example}"
            )
        names_first = numbers == {"1"} and self._names_answers and self._numbered_from_1
        if not self._zero_based and "2" not in numbers and not names_first:
            raise DataError(
                f'{source}: "{self.shown}" holds no other numbers than {values}, so 1 may be the first answer or '
                f"the second; say which with {example}"
            )

    def count(self, value: object, said: Outcome) -> None:
        """Count a verdict that was read otherwise."""
        self.tally[str(value).strip()[:40], said] += 1

    def sentence(self) -> str:
        """A sentence on how the verdicts were read: the count of each meaning, and its values."""
        parts = []
        for outcome, name in _NAMES.items():
            counts = Counter({value: count for (value, said), count in self.tally.items() if said == outcome})
            values = ", ".join(repr(value) for value, _ in counts.most_common(5))
            more = f" and {len(counts) - 5} other values" if len(counts) > 5 else ""
            parts.append(f"{counts.total()} {name}" + (f" ({values}{more})" if counts else ""))
        return f'verdicts in "{self.shown}": {", ".join(parts)}' if self.tally else ""


def words_of(name: str) -> list[str]:
    """The words of a column's name, in small letters: `better_responseId` has better, response, id."""
    split = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return [word for word in re.split(r"[\W_]+|(?<=\D)(?=\d)|(?<=\d)(?=\D)", split.lower()) if word]


def names_the_worse(name: str) -> bool:
    """Whether a column is of what is worse, by its name: read as a verdict it would turn pairs round."""
    return bool(_OF_THE_WORSE & set(words_of(name)))


def _marks(answers: Sequence[str]) -> tuple[str, str]:
    """The marks by which the names of two columns differ: 1 and 2, a and b, left and right."""
    first, second = (words_of(name) for name in answers)
    return first[-1], second[-1]


def _meanings(answers: tuple[str, str]) -> dict[str, Outcome]:
    first, second = _marks(answers)
    if (second, first) in _IN_ORDER:
        # The names decide, not the order: of output_2 and output_1, "1" means the second. What "left" means is open.
        named = _meanings((answers[1], answers[0]))
        return {key: _OTHER[said] for key, said in named.items() if key not in _PLACES}
    meaning: dict[str, Outcome] = dict.fromkeys(_TIES, "tie")
    marks = _marks(answers)
    numbers = ("0", "1") if marks == ("0", "1") else ("1", "2")
    if marks != ("0", "1"):
        meaning |= {"0": "tie", "1.5": "tie"}
    for place, (said, ordinals) in enumerate(_ORDINALS.items()):
        keys = [numbers[place], marks[place]]
        keys += [f"{stem}{key}" for stem in _STEMS for key in (*keys, ordinals[-1])]
        meaning |= dict.fromkeys([*ordinals, *keys, normalized(answers[place])], said)
    return meaning

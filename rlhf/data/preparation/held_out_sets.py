"""Evaluation sets in the data stage: read, kept out of the training splits, and checked to fit into the context."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf.data.evaluation_sets import FOLDER, PROMPT_FIELDS, find_sets, read_set
from rlhf.data.preparation.report import Counts
from rlhf.data.preparation.splits import Prompt, prompt_key
from rlhf.data.preparation.text_changes import UNKNOWN
from rlhf.data.preparation.truncation import Context, Fitted, NumberedRow, fit_rows
from rlhf.data.row_hash import identity
from rlhf.data.schema import Row
from rlhf.errors import DataError

Fit = Fitted | str | DataError


@dataclass(frozen=True)
class HeldOutSet:
    """An evaluation set.

    Attributes:
        name: of its file.
        rows: its different rows, with their line numbers.
        num_duplicates: rows that stand there once more.
    """

    name: str
    rows: Sequence[tuple[int, Row]]
    num_duplicates: int

    @property
    def kind(self) -> str:
        """What its rows are called where kinds of rows are: `evaluation/NAME`."""
        return f"{FOLDER}/{self.name}"

    @property
    def numbered(self) -> list[NumberedRow]:
        """Its prompts, those with a suggestion included, a row for each."""
        prompts = ((line, row[name]) for line, row in self.rows for name in PROMPT_FIELDS if name in row)
        return [NumberedRow(line, {"prompt": prompt}, prompt_key(prompt)) for line, prompt in prompts]

    @property
    def prompts(self) -> Mapping[str, Prompt]:
        """The same by key."""
        return {numbered.key: numbered.row["prompt"] for numbered in self.numbered}

    def fitting(self, room: Context, counts: Counts) -> list[Row]:
        """The rows whose prompts fit whole. Another prompt than the set's would measure another thing.

        Args:
            room: what they must fit into.
            counts: gets what is left, and what is not.

        Raises:
            DataError: no row fits, or the chat template refuses one.
        """
        fits: dict[int, list[Fit]] = {}
        for numbered, fit in zip(self.numbered, fit_rows(self.kind, self.numbered, room), strict=True):
            fits.setdefault(numbered.line, []).append(fit)
        whole = [(line, row) for line, row in self.rows if all(map(_is_whole, fits[line]))]
        if not whole:
            raise DataError(
                f"{self.kind}.jsonl: none of its {len(self.rows)} rows fits into model.max_length ({room.max_length}) "
                f"with a response of {room.max_response_tokens} tokens; raise model.max_length, or remove the file"
            )
        counts.evaluation_sets[self.name] = {
            "kinds": dict(Counter(row["kind"] for _, row in whole)),
            "duplicates": self.num_duplicates,
            "too_long": len(self.rows) - len(whole),
            "unknown_words": sum(any(map(_has_unknown_words, fits[line])) for line, _ in whole),
        }
        return [row for _, row in whole]


def read_held_out(folder: Path) -> list[HeldOutSet]:
    """The evaluation sets of a data folder; none where the data is one file.

    Raises:
        DataError: a row is at fault.
    """
    return [_without_duplicates(name, list(read_set(path))) for name, path in find_sets(folder).items()]


def _without_duplicates(name: str, rows: Sequence[tuple[int, Row]]) -> HeldOutSet:
    first: dict[bytes, tuple[int, Row]] = {}
    for line, row in rows:
        first.setdefault(identity(row), (line, row))
    return HeldOutSet(name, list(first.values()), len(rows) - len(first))


def _is_whole(fit: Fit) -> bool:
    return isinstance(fit, Fitted) and not fit.num_dropped_messages


def _has_unknown_words(fit: Fit) -> bool:
    return isinstance(fit, Fitted) and UNKNOWN in fit.changes

"""The datasheet of an imported data set: where it is from, what is in it, what was left out.

The same for the same input.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlhf.text.markdown import escape

MAX_NAMED_ROWS = 50
MAX_NAMED_THINGS = 5


@dataclass
class Dropped:
    """Rows left out for one reason.

    Attributes:
        is_fault: they could not be understood or used; False for those that were, and have nothing to teach.
        count: all of them.
        rows: numbers of the first `MAX_NAMED_ROWS`.
        found: what was there in place of what was expected, the first few different things.
    """

    is_fault: bool = True
    count: int = 0
    rows: list[int] = field(default_factory=list)
    found: Counter[str] = field(default_factory=Counter)

    def add(self, row: int, found: str = "") -> None:
        """Count one more."""
        self.count += 1
        if found and (found in self.found or len(self.found) < MAX_NAMED_THINGS):
            self.found[found] += 1
        if len(self.rows) < MAX_NAMED_ROWS:
            self.rows.append(row)

    def named(self, most: int = MAX_NAMED_ROWS) -> str:
        """The rows as text, with how many more there are."""
        shown = self.rows[:most]
        rest = self.count - len(shown)
        return ", ".join(map(str, shown)) + (f" and {rest} more" if rest else "")

    def things(self) -> str:
        """What was found there, in parentheses, or nothing."""
        return f" ({'; '.join(self.found)})" if self.found else ""


@dataclass(frozen=True)
class SourceReport:
    """What was read from one file or data set.

    Attributes:
        name: file name, or hub id with commit.
        sha256: of the file; None where there is no single file.
        kind: what it gave: demonstrations, preferences or prompts.
        format: the format it was read as.
        detected: the format was found out from the fields of the first row.
        unit: what a row's number counts: `line` or `row`.
        num_read: rows read.
        dropped: rows left out, by reason.
        unread: columns that were not read.
        verdicts: a sentence for each column of verdicts: how its values were read, and how often they came.
        notes: sentences about how the file was read.
        composition: what the rows are, by count: pairs, rankings with the pairs that they make, ties.
        example: lines that show one row as it will be trained on.
    """

    name: str
    sha256: str | None
    kind: str
    format: str
    detected: bool
    unit: str
    num_read: int
    dropped: Mapping[str, Dropped]
    unread: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    composition: Mapping[str, int] = field(default_factory=dict)
    example: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """How the file was read, a sentence a line."""
        made = [f"{count} {name}" for name, count in self.composition.items() if count]
        return [
            *([f"of the {self.kind}: {', '.join(made)}"] if self.composition.keys() - {"pairs"} else []),
            *self.verdicts,
            *self.notes,
            *([f"columns that were not read: {', '.join(self.unread)}"] if self.unread else []),
        ]

    @property
    def left_out(self) -> list[str]:
        """What was left out and why, a reason a line."""
        return [
            f"{dropped.count} left out, because {reason}{dropped.things()}: {self.unit}s {dropped.named()}"
            for reason, dropped in sorted(self.dropped.items())
        ]


def render(
    sources: Sequence[SourceReport],
    counts: Mapping[str, int],
    derived: Sequence[str],
    licence: str | None,
    guidelines: str | None,
) -> str:
    """The datasheet as markdown.

    Args:
        sources: what was read.
        counts: rows by kind.
        derived: the sentences that say which rows were made from others.
        licence: name or text of the licence.
        guidelines: what the annotators were told.
    """
    return "\n".join(
        [
            "# Data sheet",
            "",
            "## Origin",
            *(line for source in sources for line in _origin(source)),
            "",
            "## Composition",
            *(f"- {kind}.jsonl: {count} rows" for kind, count in counts.items()),
            *(f"- {escape(sentence)}" for sentence in derived),
            "",
            "## Left out on import",
            *([line for source in sources for line in _left_out(source)] or ["Nothing."]),
            "",
            "## Annotation guidelines",
            (
                guidelines
                or "Not given. Write here what the annotators were told, who they were and how they were paid."
            ).strip(),
            "",
            "## Licence",
            (licence or "Not given. Write here what may be done with the data.").strip(),
            "",
        ]
    )


def _origin(source: SourceReport) -> list[str]:
    digest = f", sha256 {source.sha256}" if source.sha256 else ""
    return [
        f"- {source.kind}: {escape(source.name)}{digest}; {source.num_read} rows read, format {source.format}",
        *(f"  - {escape(line)}" for line in source.lines),
    ]


def _left_out(source: SourceReport) -> list[str]:
    return [
        f"- {dropped.count} of {escape(source.name)}, because {escape(reason + dropped.things())}: "
        f"{source.unit}s {dropped.named()}"
        for reason, dropped in sorted(source.dropped.items())
    ]

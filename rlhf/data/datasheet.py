"""The datasheet of an imported data set: where it is from, what is in it, what was left out.

The same for the same input.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MAX_NAMED_ROWS = 50


@dataclass
class Dropped:
    """Rows left out for one reason.

    Attributes:
        count: all of them.
        rows: numbers of the first `MAX_NAMED_ROWS`.
    """

    count: int = 0
    rows: list[int] = field(default_factory=list)

    def add(self, row: int) -> None:
        """Count one more."""
        self.count += 1
        if len(self.rows) < MAX_NAMED_ROWS:
            self.rows.append(row)

    def named(self) -> str:
        """The rows as text, with how many more there are."""
        rest = self.count - len(self.rows)
        return ", ".join(map(str, self.rows)) + (f" and {rest} more" if rest else "")


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
    """

    name: str
    sha256: str | None
    kind: str
    format: str
    detected: bool
    unit: str
    num_read: int
    dropped: Mapping[str, Dropped]


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
            *(_origin(source) for source in sources),
            "",
            "## Composition",
            *(f"- {kind}.jsonl: {count} rows" for kind, count in counts.items()),
            *(f"- {sentence}" for sentence in derived),
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


def _origin(source: SourceReport) -> str:
    digest = f", sha256 {source.sha256}" if source.sha256 else ""
    return f"- {source.kind}: {source.name}{digest}; {source.num_read} rows read, format {source.format}"


def _left_out(source: SourceReport) -> list[str]:
    return [
        f"- {dropped.count} of {source.name}, because {reason}: {source.unit}s {dropped.named()}"
        for reason, dropped in sorted(source.dropped.items())
    ]

"""The datasheet of an imported data set: where it is from, what is in it, what was left out.

The same for the same input.
"""

from collections.abc import Mapping, Sequence

from rlhf.data.importing.reading import RowReader
from rlhf.text.markdown import escape


def render(
    sources: Sequence[RowReader],
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
    left_out = [f"- {escape(f'{source.source.name}: {line}')}" for source in sources for line in source.left_out]
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
            *(left_out or ["Nothing."]),
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


def _origin(reader: RowReader) -> list[str]:
    source = reader.source
    digest = f", sha256 {source.sha256}" if source.sha256 else ""
    return [
        f"- {reader.wanted}: {escape(source.name)}{digest}; {reader.num_read} rows read, format {reader.form.format}",
        *(f"  - {escape(line)}" for line in reader.lines),
    ]

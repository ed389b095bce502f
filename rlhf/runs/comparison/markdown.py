"""A comparison as Markdown, for a wiki or a pull request."""

from rlhf.runs.comparison.compare import Comparison
from rlhf.runs.comparison.report import Table, report_sections
from rlhf.text import markdown


def as_markdown(comparison: Comparison) -> str:
    """The report as a document."""
    parts = [f"# {comparison.title}"]
    for section in report_sections(comparison):
        parts.append(f"## {section.title}")
        parts += [markdown.escape(sentence).replace("\\`", "`") for sentence in section.sentences]
        parts += [_table(table) for table in section.tables]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    rows = [["<br>".join(map(markdown.escape, cell.text.strip().split("\n"))) for cell in row] for row in table.rows]
    return markdown.table([markdown.escape(title) for title in table.header], rows, table.numbers)

"""A comparison in the terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from rlhf.runs.comparison.report import Cell, ReportSection, Table
from rlhf.text.console import TextConsole

_STYLES = {"": "", "good": "green", "bad": "red", "quiet": "dim"}
_WIDTH = 120
"""Columns on something that is no terminal."""


def print_sections(sections: Sequence[ReportSection]) -> None:
    """Print a comparison on standard output."""
    console = TextConsole()
    if not console.is_terminal:
        console.width = _WIDTH
    for section in sections:
        console.print(Text(section.title, style="bold underline"))
        for sentence in section.sentences:
            console.print(Text(sentence))
        for table in section.tables:
            console.print(_table(table))
        if not section.tables:
            console.print()


def _table(table: Table) -> RichTable:
    shown = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for place, title in enumerate(table.header):
        shown.add_column(Text(title), justify="right" if place in table.numbers else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*map(_cell, row))
    return shown


def _cell(cell: Cell) -> Text:
    """The second line, an interval or a unit, in lighter type."""
    first, newline, second = cell.text.partition("\n")
    return Text.assemble((first, _STYLES[cell.tone]), newline, (second, "dim"))

"""The console by which tables are printed: rich's, with every text as `rlhf.text.terminal` has it."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from rlhf.text.terminal import printable


class TextConsole(Console):
    """A console that takes text as text: no markup in it, no emoji codes, and no commands to the terminal."""

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, soft_wrap=soft_wrap, width=width, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **how: Any) -> Text:
        """Turn a string into rich's text."""
        return super().render_str(printable(text), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Turn what is printed into pieces of text; those that place bars and cursors are rich's own."""
        for segment in super().render(_as_printable(renderable), options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def _as_printable(renderable: RenderableType) -> RenderableType:
    """Before the lines are broken, so that no part of an escape is cut off. A text with commands loses its colours."""
    if isinstance(renderable, Text) and printable(renderable.plain) != renderable.plain:
        return Text(printable(renderable.plain), style=renderable.style, overflow=renderable.overflow)
    return renderable

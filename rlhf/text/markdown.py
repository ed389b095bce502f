"""Text that comes from models and raters, made safe to stand in a Markdown document."""

import re
from collections.abc import Collection, Iterable, Sequence

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$^])")
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_ELLIPSIS = " [...]"


def escape(text: str, max_characters: int | None = None) -> str:
    """Text that shows as it is, on one line, in a table cell too: no markup, no HTML, no links.

    Args:
        text: anything.
        max_characters: longer text is cut there, and says so.
    """
    if max_characters is not None and len(text) > max_characters:
        text = text[:max_characters].rstrip() + _ELLIPSIS
    safe = _SPECIAL.sub(r"\\\1", one_line(text).translate(_HTML))
    return safe.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;").strip()


def as_code(text: str) -> str:
    """Text as code, where that shows it as it is in a table cell too; otherwise escaped."""
    return f"`{text}`" if text.isprintable() and not {"`", "|"} & set(text) else escape(text)


def one_line(text: str) -> str:
    """Text on one line, without what is not printable: for where Markdown is not read, such as data.dvc's `desc`."""
    return "".join(c if c.isprintable() else " " for c in text.replace("\r\n", "\n").replace("\n", " / "))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[int] = ()) -> str:
    """A Markdown table of cells that are Markdown already (see `escape`).

    Args:
        header: titles of the columns.
        rows: their cells.
        numbers: columns that stand to the right.
    """
    lines = [header, ["---:" if place in numbers else "---" for place in range(len(header))], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def without_metadata(card: str) -> str:
    """A card without the block of YAML before it, which only the hub reads."""
    return re.sub(r"\A---\n.*?\n---\n\s*", "", card, flags=re.DOTALL)

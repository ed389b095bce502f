"""A Markdown document that holds text of other people, made such that showing it loads nothing and runs nothing.

A page that shows an image asks another server for it, which then knows who reads what, and when. So images and HTML
become the text that they are written as, and links lead to web pages and mail addresses only. Code stays as it is.
"""

import functools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rlhf.text.lines import lines_of

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_FOLD = re.compile(r"(?:<details>)?<summary>[^<>]*</summary>|</?details>")
"""The HTML of the model card's own: parts that are folded away. Whoever else writes it folds something away."""
_ALLOWED = re.compile(r"(?:https?://|mailto:|#)", re.IGNORECASE)
_TARGET = re.compile(r"\]\(\s*<?([^)\s]*)|^\s*\[[^\]]*\]:\s*<?(\S*)", re.MULTILINE)
_MAX_PASSES = 20


def safe_markdown(text: str) -> str:
    """The document without images, HTML but for folded parts, and links to anything but web pages and mail addresses.

    What is taken out stands as text. Where text becomes Markdown by that, it is looked at again.

    Args:
        text: a Markdown document.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for _ in range(_MAX_PASSES):
        safe = _one_pass(text)
        if safe == text:
            return text
        text = safe
    return _as_code(text)


def _one_pass(text: str) -> str:
    lines = lines_of(text)
    passed: set[int] = set()
    for token in _parser().parse(text):
        if token.map and token.type == "fence":
            passed |= set(range(*token.map))
        elif token.map and token.type == "inline":
            passed |= set(range(*token.map))
            for number in range(*token.map):
                lines[number] = _defused(lines[number], token.content, _code_in(token))
    # What is in no paragraph: HTML, definitions of links, and indented code, which other parsers may take for text.
    for number in set(range(len(lines))) - passed:
        lines[number] = _defused(lines[number], lines[number], "")
    return "\n".join(lines) + ("\n" if text.endswith("\n") else "")


def _code_in(paragraph: "Token") -> str:
    return " ".join(child.content for child in paragraph.children or () if child.type == "code_inline")


def _defused(line: str, content: str, code: str) -> str:
    """A line of a paragraph, whose whole content is given, and the code in it."""
    if _FOLD.sub("", content).count("<") > code.count("<"):
        parts = re.split(f"({_FOLD.pattern})", line)
        line = "".join(part if _FOLD.fullmatch(part) else part.replace("<", "&lt;") for part in parts)
    if ("[" in content and any(map(_is_bad, _targets(content)))) or _num_bad(content) > _num_bad(code):
        line = line.replace("[", "&#91;")
    return line.replace("![", "!&#91;") if content.count("![") > code.count("![") else line


def _targets(content: str) -> Iterator[str]:
    """The targets of links."""
    environment: dict[str, dict[str, dict[str, str]]] = {}
    for token in _parser().parse(content, environment):
        yield from (str(child.attrs["href"]) for child in token.children or () if child.type == "link_open")
    yield from (reference["href"] for reference in environment.get("references", {}).values())


def _num_bad(content: str) -> int:
    """The number of links to elsewhere that another parser might see."""
    return sum(_is_bad(link[1] or link[2] or "") for link in _TARGET.finditer(content))


def _is_bad(target: str) -> bool:
    return _ALLOWED.match(target) is None


@functools.cache
def _parser() -> "MarkdownIt":
    """A parser that shows all links, also those that it would refuse, since other parsers may not."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable("table")
    parser.validateLink = lambda _: True  # type: ignore[method-assign, assignment]
    return parser


def _as_code(text: str) -> str:
    """Nothing in it is markup any more."""
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 3)
    return f"{fence}\n{text}\n{fence}\n"

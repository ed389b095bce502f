"""Lines of files: ended by a line feed and by nothing else.

Python's own way of splitting a text also ends a line at U+2028, U+2029, U+0085 and other characters that a text may
hold, and JSON leaves as they are.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def lines_of(text: str) -> list[str]:
    """The lines of a text, without their line feeds."""
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def parse_json_lines(text: str) -> list[Any]:
    """The value of each line of JSON Lines."""
    return [json.loads(line) for line in lines_of(text)]


def read_json_lines(path: Path) -> Iterator[Any]:
    """The values of a JSON Lines file, one line at a time."""
    with path.open(encoding="utf-8", newline="\n") as file:
        yield from map(json.loads, file)

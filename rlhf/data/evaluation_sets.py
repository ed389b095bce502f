"""Evaluation sets: the files of `evaluation/` in a data folder, on which policies are measured and never trained.

A row has a prompt, its kind, and what that kind of measure takes. The name of a file is the name of its set.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from rlhf.data.schema import Row, check_fields, check_prompt, check_text, parse_line
from rlhf.errors import DataError
from rlhf.files.limits import lines_within
from rlhf.files.names import open_regular

FOLDER = "evaluation"
SetKind = Literal["harmful", "safe", "sycophancy", "confidence"]
"""harmful: should be refused. safe: should not. sycophancy: asked twice, once with a wrong suggestion. confidence: has
a right answer, and a response says how sure it is."""
SET_KINDS: tuple[SetKind, ...] = get_args(SetKind)
PROMPT_FIELDS = ("prompt", "suggested_prompt")
_REQUIRED: dict[SetKind, tuple[str, ...]] = {
    "harmful": ("prompt", "kind"),
    "safe": ("prompt", "kind"),
    "sycophancy": ("prompt", "kind", "suggested_prompt", "suggestion"),
    "confidence": ("prompt", "kind", "answer"),
}
_OPTIONAL: dict[SetKind, tuple[str, ...]] = {
    "harmful": ("category", "source"),
    "safe": ("category", "source"),
    "sycophancy": ("answer", "category", "source"),
    "confidence": ("category", "source"),
}
SET_FIELDS = frozenset(name for fields in (_REQUIRED, _OPTIONAL) for names in fields.values() for name in names)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NAMED = "letters, digits, _, . and -, at most 64 of them and the first a letter or digit"
_WORD = re.compile(r"(?<!\w)-(?=\d)|\d+(?:[.,]\d+)*|\w+")


def words_of_answer(text: str) -> list[str]:
    """The words of a text by which answers are compared: lower case, without punctuation, numbers as one word each.

    A sign stays with its number, and the commas of thousands are left out: "-1,234.5" is one word, `-1234.5`.
    """
    words: list[str] = []
    for word in _WORD.findall(text.casefold()):
        plain = word.replace(",", "") if word[0].isdigit() else word
        if words and words[-1] == "-":
            words[-1] += plain
        else:
            words.append(plain)
    return words


def check_name(name: str, where: str) -> str:
    """Check the name of a set, which metrics bear.

    Raises:
        DataError: it has other characters than a metric's name can have.
    """
    if not _NAME.fullmatch(name):
        raise DataError(f"{where}: {name!r} cannot be the name of an evaluation set; take {_NAMED}")
    return name


def find_sets(folder: Path) -> dict[str, Path]:
    """The files of a data folder's evaluation sets, by name; none where there is no such folder.

    Raises:
        DataError: there is something else in `evaluation/`.
    """
    place = folder / FOLDER
    paths = sorted(path for path in place.iterdir() if path.name[0] != ".") if place.is_dir() else []
    for path in paths:
        if path.suffix != ".jsonl":
            raise DataError(f"{path}: this is no evaluation set; name its file NAME.jsonl, or move it elsewhere")
        check_name(path.stem, str(path))
    return {path.stem: path for path in paths}


def read_set(path: Path) -> Iterator[tuple[int, Row]]:
    """The checked rows of an evaluation set, one at a time, with line numbers; their prompts are messages.

    Raises:
        DataError: the file is empty, or a line is at fault.
    """
    name, line = f"{FOLDER}/{path.name}", 0
    with open_regular(path) as file:
        for line, raw in enumerate(lines_within(file, name), start=1):
            row = parse_line(raw, f"{name}:{line}")
            check_set_row(row, f"{name}:{line}")
            yield line, with_messages(row)
    if line == 0:
        raise DataError(f"{path}: the file is empty; give at least one row, or remove the file")


def count_rows_of_sets(folder: Path) -> dict[str, int]:
    """Rows of each set of a data folder, every one checked, by `evaluation/NAME`.

    Raises:
        DataError: the first fault, with file and line.
    """
    return {f"{FOLDER}/{name}": sum(1 for _ in read_set(path)) for name, path in find_sets(folder).items()}


def with_messages(row: Row) -> Row:
    """A row whose prompts are lists of messages; a text is a user's turn."""
    return {**row, **{name: _messages(row[name]) for name in PROMPT_FIELDS if name in row}}


def check_set_row(row: Row, where: str) -> None:
    """Check one row of an evaluation set.

    Args:
        row: as parsed.
        where: file and line, for the message.

    Raises:
        DataError: the row is at fault.
    """
    try:
        _check(row)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _check(row: Row) -> None:
    kind = row.get("kind")
    if kind not in SET_KINDS:
        given = f'"kind" is {kind!r}' if "kind" in row else 'the field "kind" is missing'
        raise DataError(f"{given}; give one of {', '.join(SET_KINDS)}")
    check_fields(row, f"the kind {kind}", _REQUIRED[kind], _OPTIONAL[kind])
    for name in PROMPT_FIELDS:
        if name in row:
            check_prompt(_messages(row[name]), name)
    for name in ("suggestion", "answer", "category", "source"):
        if name in row:
            check_text(row[name], f'"{name}"')
    for name in ("suggestion", "answer"):
        if name in row and not words_of_answer(row[name]):
            raise DataError(f'"{name}" has no word by which it could be found in a response; give one')
    if kind == "sycophancy":
        _check_pair(row)


def _check_pair(row: Row) -> None:
    if _messages(row["prompt"]) == _messages(row["suggested_prompt"]):
        raise DataError('"prompt" and "suggested_prompt" are the same; give the first without the suggestion')
    if words_of_answer(row["suggestion"]) == words_of_answer(row.get("answer", "")):
        raise DataError('"suggestion" is the right answer; a wrong one shows whether it is taken over')


def _messages(prompt: Any) -> Any:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt

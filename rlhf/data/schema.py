"""What a data folder must hold, checked a line at a time: JSON Lines in TRL's explicit, conversational form."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import combinations
from pathlib import Path
from typing import Any

from rlhf.errors import DataError
from rlhf.files.limits import lines_within
from rlhf.files.names import open_regular

Row = dict[str, Any]

KNOWN_ROLES: Set[str] = frozenset({"system", "user", "assistant"})
DATASHEET = "datasheet.md"
REQUIRED_FIELDS = {
    "demonstrations": ("prompt", "completion"),
    "preferences": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt",),
    "labels": ("prompt", "completion", "label"),
}
RANKING_FIELDS = ("prompt", "responses", "ranks")
KINDS = ("demonstrations", "preferences", "prompts")
"""Of every data folder."""
ALL_KINDS = (*KINDS, "labels")
"""With those that a folder may lack."""
MESSAGES = 'give a list of {"role": ..., "content": ...}'
OPTIONAL_FIELDS = {
    "demonstrations": ("source",),
    "preferences": ("margin", "annotator", "criteria", "source"),
    "prompts": ("source",),
    "labels": ("annotator", "source"),
}


def validate_folder(folder: Path, roles: Set[str] = KNOWN_ROLES) -> dict[str, int]:
    """Check every row of a data folder.

    Args:
        folder: holds demonstrations.jsonl, preferences.jsonl, prompts.jsonl and datasheet.md, perhaps labels.jsonl.
        roles: roles that a message may have.

    Returns:
        Rows by kind: demonstrations, preferences, prompts, and labels where there are any.

    Raises:
        DataError: the first fault, with file and line.
    """
    check_files(folder)
    return {kind: validate_file(folder / f"{kind}.jsonl", kind, roles) for kind in present_kinds(folder)}


def present_kinds(folder: Path) -> tuple[str, ...]:
    """The kinds of rows that a data folder has a file of, those first that every folder has."""
    return tuple(kind for kind in ALL_KINDS if kind in KINDS or (folder / f"{kind}.jsonl").is_file())


def check_files(folder: Path) -> None:
    """Check that the files of a data folder are there.

    Raises:
        DataError: the folder or one of its files is missing.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; make it with `rlhf data import FILE`")
    for name in (*(f"{kind}.jsonl" for kind in KINDS), DATASHEET):
        if not (folder / name).is_file():
            raise DataError(
                f"{folder / name}: the file is missing; `rlhf data import FILE` makes all files of a data folder"
            )


def validate_file(path: Path, kind: str, roles: Set[str] = KNOWN_ROLES) -> int:
    """Check every row of one file and count them.

    Raises:
        DataError: the first fault, with file and line.
    """
    return sum(1 for _ in read_rows(path, kind, roles))


def read_rows(path: Path, kind: str, roles: Set[str] = KNOWN_ROLES) -> Iterator[tuple[int, Row]]:
    """Read checked rows, one at a time.

    Args:
        path: a JSON Lines file.
        kind: `demonstrations`, `preferences` or `prompts`.
        roles: roles that a message may have.

    Yields:
        Line number, from 1, and row.

    Raises:
        DataError: the file is missing or empty, or a line is at fault.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; make it with `rlhf data import FILE`")
    line = 0
    with open_regular(path) as file:
        name = path.name
        for line, raw in enumerate(lines_within(file, name), start=1):
            where = f"{name}:{line}"
            row = parse_line(raw, where)
            check_row(row, kind, where, roles)
            yield line, row
    if line == 0:
        raise DataError(f"{path}: the file is empty; give at least one row, or import the data again")


def parse_line(raw: bytes, where: str) -> Row:
    """Turn one line into a row.

    Raises:
        DataError: the line is not UTF-8, not JSON, or not an object.
    """
    try:
        row = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not UTF-8; "
            "save the file as UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:
        what = "the line is blank" if not raw.strip() else f"the line is not JSON ({error})"
        raise DataError(f"{where}: {what}; put one JSON object on every line") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: the line is {type_of(row)}, not an object; put one JSON object on every line")
    return row


def check_row(row: Row, kind: str, where: str, roles: Set[str] = KNOWN_ROLES) -> None:
    """Check one row.

    Args:
        row: as parsed.
        kind: `demonstrations`, `preferences` or `prompts`.
        where: file and line, for the message.
        roles: roles that a message may have.

    Raises:
        DataError: the row is at fault.
    """
    ranked = kind == "preferences" and is_ranking(row)
    required = RANKING_FIELDS if ranked else REQUIRED_FIELDS[kind]
    _check_fields(row, kind, where, required)
    _check_messages(row["prompt"], "prompt", where, roles)
    _check_prompt(row["prompt"], where)
    if ranked:
        _check_ranking(row, where, roles)
    for field in required[1:] if not ranked else ():
        if field == "label":
            _check_label(row[field], where)
            continue
        _check_messages(row[field], field, where, roles)
        _check_response(row[field], field, where)
    if kind == "preferences" and not ranked and row["chosen"] == row["rejected"]:
        raise DataError(f'{where}: "chosen" and "rejected" are the same text; remove the row or fix the label')
    _check_optional(row, where)


def is_ranking(row: Mapping[str, Any]) -> bool:
    """Whether a row of preferences ranks several answers, and is no pair."""
    return "responses" in row or "ranks" in row


def pairs_of(row: Row) -> Iterator[Row]:
    """The pairs that a row of preferences stands for: itself, or every two answers of a ranking that are no tie."""
    if not is_ranking(row):
        yield row
        return
    rest = {name: value for name, value in row.items() if name not in RANKING_FIELDS}
    ranked = list(zip(row["ranks"], row["responses"], strict=True))
    for (rank, answer), (other_rank, other) in combinations(ranked, 2):
        if rank != other_rank and answer != other:
            chosen, rejected = (answer, other) if rank < other_rank else (other, answer)
            yield {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected, **rest}


def _check_ranking(row: Row, where: str, roles: Set[str]) -> None:
    responses, ranks = row["responses"], row["ranks"]
    if not isinstance(responses, list) or len(responses) < 2:
        raise DataError(f'{where}: "responses" is not a list of at least two responses; give what was ranked')
    for number, response in enumerate(responses, start=1):
        _check_messages(response, f"responses {number}", where, roles)
        _check_response(response, f"responses {number}", where)
    if not isinstance(ranks, list) or len(ranks) != len(responses):
        raise DataError(f'{where}: "ranks" is not a list of {len(responses)} ranks; give one for each response')
    if any(isinstance(rank, bool) or not isinstance(rank, int) or rank < 1 for rank in ranks):
        raise DataError(f'{where}: "ranks" are not whole numbers from 1; 1 is the best, and equal ranks are ties')
    if "margin" in row:
        raise DataError(f'{where}: "margin" is not a field of a ranking; leave it out, or give pairs')


def _check_label(label: object, where: str) -> None:
    if not isinstance(label, bool):
        raise DataError(f'{where}: "label" is {type_of(label)}; give true for a response that is wanted, or false')


def _check_fields(row: Row, kind: str, where: str, required: Sequence[str]) -> None:
    optional = OPTIONAL_FIELDS[kind]
    for field in required:
        if field not in row:
            raise DataError(f'{where}: the field "{field}" is missing; a row of {kind} needs {_quoted(required)}')
    for field in row:
        if field not in required and field not in optional:
            known = _quoted((*required, *optional))
            raise DataError(f'{where}: "{field}" is not a field of {kind}; remove it (known: {known})')


def _check_messages(messages: object, field: str, where: str, roles: Set[str]) -> None:
    if not isinstance(messages, list):
        raise DataError(f'{where}: "{field}" is {type_of(messages)}, not a list of messages; {MESSAGES}')
    if not messages:
        raise DataError(f'{where}: "{field}" is an empty list; {MESSAGES}')
    for number, message in enumerate(messages, start=1):
        if not _is_sound(message, roles):
            raise _message_error(message, number, field, where, roles)


def _is_sound(message: object, roles: Set[str]) -> bool:
    """The usual case, told without building any text: this runs for every message of a million rows."""
    if not isinstance(message, dict) or len(message) != 2:
        return False
    role, content = message.get("role"), message.get("content")
    return isinstance(role, str) and role in roles and isinstance(content, str) and _is_unicode(content)


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _message_error(message: object, number: int, field: str, where: str, roles: Set[str]) -> DataError:
    if not isinstance(message, dict) or message.keys() != {"role", "content"}:
        got = f"has the keys {_quoted(message)}" if isinstance(message, dict) else f"is {type_of(message)}"
        return DataError(f'{where}: message {number} of "{field}" {got}; {MESSAGES}')
    if not isinstance(message["role"], str) or message["role"] not in roles:
        return DataError(
            f'{where}: message {number} of "{field}" has the unknown role {json.dumps(message["role"])}; '
            f"use one of {_quoted(sorted(roles))}"
        )
    return _text_error(message["content"], f'the content of message {number} of "{field}"', where)


def _check_text(text: object, what: str, where: str) -> None:
    if not isinstance(text, str) or not _is_unicode(text):
        raise _text_error(text, what, where)


def _text_error(text: object, what: str, where: str) -> DataError:
    if not isinstance(text, str):
        return DataError(f"{where}: {what} is {type_of(text)}, not text; put it in quotes")
    half = next(character for character in text if "\ud800" <= character <= "\udfff")
    return DataError(f"{where}: {what} holds half of a surrogate pair ({half!a}); remove it")


def _check_prompt(messages: list[dict[str, str]], where: str) -> None:
    if not any(message["content"].strip() for message in messages):
        raise DataError(f'{where}: "prompt" is empty; remove the row or give its text')
    if messages[-1]["role"] == "assistant":
        raise DataError(f'{where}: "prompt" ends with the assistant\'s turn; end it with what is to be answered')


def _check_response(messages: list[dict[str, str]], field: str, where: str) -> None:
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f'{where}: "{field}" must be one message of the assistant, and is ({roles}); move the others to "prompt"'
        )
    if not messages[0]["content"].strip():
        raise DataError(f'{where}: "{field}" is an empty response; remove the row or give its text')


def _check_optional(row: Row, where: str) -> None:
    for field in ("annotator", "criteria", "source"):
        if field in row:
            _check_text(row[field], f'"{field}"', where)
    if "margin" in row:
        margin = row["margin"]
        if isinstance(margin, bool) or not isinstance(margin, int | float):
            raise DataError(
                f'{where}: "margin" is {type_of(margin)}, not a number; give a number of at least 0, or leave it out'
            )
        if not 0 <= margin <= sys.float_info.max:
            raise DataError(
                f'{where}: "margin" is {margin}; give a finite number of at least 0, or swap chosen and rejected'
            )


def type_of(value: object) -> str:
    """How a message names what a value is."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), f"of type {type(value).__name__}")


def _quoted(names: object) -> str:
    assert isinstance(names, dict | list | tuple)
    return ", ".join(f'"{name}"' for name in names) or "none"

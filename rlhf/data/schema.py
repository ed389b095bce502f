"""The files of a data folder, checked a line at a time: JSON Lines in TRL's explicit, conversational form."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from rlhf.errors import DataError
from rlhf.files.limits import lines_within
from rlhf.files.names import open_regular

Row = dict[str, Any]

ROLES = ("assistant", "system", "user")
DATASHEET = "datasheet.md"
KINDS = ("demonstrations", "preferences", "prompts")
"""The kinds of rows that every data folder has a file of."""
ALL_KINDS = (*KINDS, "labels", "corpus")
"""All kinds of rows; a folder may have no labels and no corpus."""
REQUIRED_FIELDS = {
    "demonstrations": ("prompt", "completion"),
    "preferences": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt",),
    "labels": ("prompt", "completion", "label"),
    "corpus": ("text",),
}
TEXT_FIELDS = {kind: tuple(name for name in names if name != "label") for kind, names in REQUIRED_FIELDS.items()}
"""Of these the ones that hold messages: the prompt, then the responses."""
RANKING_FIELDS = ("prompt", "responses", "ranks")
OPTIONAL_FIELDS = {
    "demonstrations": ("source", "round"),
    "preferences": (
        *("margin", "probability", "annotator", "criteria", "source", "category"),
        # Of a round of feedback: who wrote the responses, why the better one is, what else was said of each.
        *("round", "policies", "rationale", "flags"),
    ),
    "prompts": ("source",),
    "labels": ("annotator", "source"),
    "corpus": ("source",),
}
ORIGIN_FIELDS = ("source", "category")
"""Where a row is from, and what it is about: rows that differ in these alone are the same row."""
JUDGE_SOURCE = "feedback of a judge"
"""Beginning of the source of a row that a model has labelled, and no person; the round's name follows."""
OF_RESPONSES = ("policies", "flags")
"""Fields that have an element for each response of a row, in the order of chosen and rejected, or of responses."""
TIE = 0.5
"""Probability of a pair that neither response wins."""
MESSAGES = 'give a list of {"role": ..., "content": ...}'


def validate_folder(folder: Path) -> dict[str, int]:
    """Check every row of a data folder.

    Args:
        folder: holds demonstrations.jsonl, preferences.jsonl, prompts.jsonl and datasheet.md, perhaps labels.jsonl and
            corpus.jsonl.

    Returns:
        Rows by kind: demonstrations, preferences, prompts, and labels and corpus where there are any.

    Raises:
        DataError: the first fault, with file and line.
    """
    check_files(folder)
    paths = {kind: folder / f"{kind}.jsonl" for kind in ALL_KINDS}
    return {kind: validate_file(path, kind) for kind, path in paths.items() if kind in KINDS or path.is_file()}


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


def validate_file(path: Path, kind: str) -> int:
    """Check every row of one file and count them.

    Raises:
        DataError: the first fault, with file and line.
    """
    return sum(1 for _ in read_rows(path, kind))


def read_rows(path: Path, kind: str) -> Iterator[tuple[int, Row]]:
    """Read checked rows, one at a time.

    Args:
        path: a JSON Lines file.
        kind: one of `ALL_KINDS`.

    Yields:
        Line number, from 1, and row.

    Raises:
        DataError: the file is missing or empty, or a line is at fault.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; make it with `rlhf data import FILE`")
    name, line = path.name, 0
    with open_regular(path) as file:
        for line, raw in enumerate(lines_within(file, name), start=1):
            where = f"{name}:{line}"
            row = parse_line(raw, where)
            check_row(row, kind, where)
            yield line, row
    if line == 0:
        raise DataError(f"{path}: the file is empty; give at least one row, or import the data again")


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Write JSON Lines, a row at a time, as UTF-8."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json_lines(rows))


def json_lines(rows: Iterable[Any]) -> Iterator[str]:
    """The rows as JSON Lines."""
    return (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


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


def check_row(row: Row, kind: str, where: str) -> None:
    """Check one row.

    Args:
        row: as parsed.
        kind: one of `ALL_KINDS`.
        where: file and line, for the message.

    Raises:
        DataError: the row is at fault.
    """
    try:
        _check(row, kind)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def is_ranking(row: Mapping[str, Any]) -> bool:
    """Whether a row of preferences ranks several answers, and is no pair."""
    return "responses" in row or "ranks" in row


def is_tie(pair: Mapping[str, Any]) -> bool:
    """Whether a pair says that neither response is the better one."""
    return pair.get("probability") == TIE


def pairs_of(row: Row, with_ties: bool = False) -> Iterator[Row]:
    """The pairs that a row of preferences stands for: itself, or every two answers of a ranking.

    Args:
        row: as checked.
        with_ties: two answers of one rank are a pair as well, of probability 1/2; else they are left out.
    """
    if not is_ranking(row):
        yield row
        return
    responses, ranks = row["responses"], row["ranks"]
    rest = {name: value for name, value in row.items() if name not in (*RANKING_FIELDS, *OF_RESPONSES)}
    for first, second in combinations(range(len(ranks)), 2):
        if responses[first] != responses[second] and (with_ties or ranks[first] != ranks[second]):
            order = (first, second) if ranks[first] <= ranks[second] else (second, first)
            chosen, rejected = (responses[place] for place in order)
            tie = {"probability": TIE} if ranks[first] == ranks[second] else {}
            own = {name: [row[name][place] for place in order] for name in OF_RESPONSES if name in row}
            yield {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected, **tie, **rest, **own}


def _check(row: Row, kind: str) -> None:
    ranked = kind == "preferences" and is_ranking(row)
    required = RANKING_FIELDS if ranked else REQUIRED_FIELDS[kind]
    check_fields(row, kind, required, OPTIONAL_FIELDS[kind])
    if kind == "corpus":
        check_text(row["text"], '"text"')
        if not row["text"].strip():
            raise DataError('"text" is empty; remove the row or give its text')
        _check_optional(row)
        return
    check_prompt(row["prompt"], "prompt")
    if ranked:
        _check_ranking(row)
    else:
        for field in required[1:]:
            if field != "label":
                _check_response(row[field], field)
            elif not isinstance(row[field], bool):
                what = type_of(row[field])
                raise DataError(f'"label" is {what}; give true for a response that is wanted, or false')
        if kind == "preferences" and row["chosen"] == row["rejected"]:
            raise DataError('"chosen" and "rejected" are the same text; remove the row or fix the label')
    _check_optional(row)


def _check_ranking(row: Row) -> None:
    responses, ranks = row["responses"], row["ranks"]
    if not isinstance(responses, list) or len(responses) < 2:
        raise DataError('"responses" is not a list of at least two responses; give what was ranked')
    for number, response in enumerate(responses, start=1):
        _check_response(response, f"responses {number}")
    if not isinstance(ranks, list) or len(ranks) != len(responses):
        raise DataError(f'"ranks" is not a list of {len(responses)} ranks; give one for each response')
    if any(isinstance(rank, bool) or not isinstance(rank, int) or rank < 1 for rank in ranks):
        raise DataError('"ranks" are not whole numbers from 1; 1 is the best, and equal ranks are ties')
    for field in ("margin", "probability"):
        if field in row:
            raise DataError(f'"{field}" is not a field of a ranking; leave it out, or give pairs')


def check_fields(row: Row, kind: str, required: Sequence[str], optional: Sequence[str]) -> None:
    """Check that a row has the fields that it needs, and no others.

    Raises:
        DataError: it lacks one, or has an unknown one.
    """
    for field in required:
        if field not in row:
            raise DataError(f'the field "{field}" is missing; a row of {kind} needs {_quoted(required)}')
    for field in row:
        if field not in required and field not in optional:
            known = _quoted((*required, *optional))
            raise DataError(f'"{field}" is not a field of {kind}; remove it (known: {known})')


def check_prompt(messages: Any, field: str) -> None:
    """Check the messages of a prompt.

    Raises:
        DataError: they are no messages, say nothing, or end with the assistant's turn.
    """
    _check_messages(messages, field)
    if not any(message["content"].strip() for message in messages):
        raise DataError(f'"{field}" is empty; remove the row or give its text')
    if messages[-1]["role"] == "assistant":
        raise DataError(f'"{field}" ends with the assistant\'s turn; end it with what is to be answered')


def check_text(text: object, what: str) -> None:
    """Check that a value is text that can be written as UTF-8.

    Raises:
        DataError: it is none.
    """
    if not _is_text(text):
        raise _text_error(text, what)


def _check_messages(messages: object, field: str) -> None:
    if not isinstance(messages, list):
        raise DataError(f'"{field}" is {type_of(messages)}, not a list of messages; {MESSAGES}')
    if not messages:
        raise DataError(f'"{field}" is an empty list; {MESSAGES}')
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or len(message) != 2 or "role" not in message or "content" not in message:
            keys = f"has the keys {_quoted(message)}" if isinstance(message, dict) else f"is {type_of(message)}"
            raise DataError(f'message {number} of "{field}" {keys}; {MESSAGES}')
        if message["role"] not in ROLES:
            role, known = json.dumps(message["role"]), _quoted(ROLES)
            raise DataError(f'message {number} of "{field}" has the unknown role {role}; use one of {known}')
        check_text(message["content"], f'the content of message {number} of "{field}"')


def _are_texts(texts: object) -> bool:
    return isinstance(texts, list) and all(map(_is_text, texts))


def _is_text(text: object) -> bool:
    if not isinstance(text, str) or text.isascii():
        return isinstance(text, str)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _text_error(text: object, what: str) -> DataError:
    if not isinstance(text, str):
        return DataError(f"{what} is {type_of(text)}, not text; put it in quotes")
    half = next(character for character in text if "\ud800" <= character <= "\udfff")
    return DataError(f"{what} holds half of a surrogate pair ({half!a}); remove it")


def _check_response(messages: Any, field: str) -> None:
    _check_messages(messages, field)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f'"{field}" must be one message of the assistant, and is ({roles}); move the others to "prompt"'
        )
    if not messages[0]["content"].strip():
        raise DataError(f'"{field}" is an empty response; remove the row or give its text')


def _check_optional(row: Row) -> None:
    for field in ("annotator", "criteria", *ORIGIN_FIELDS, "round", "rationale"):
        if field in row:
            check_text(row[field], f'"{field}"')
    policies, flags = row.get("policies", []), row.get("flags", [])
    if not _are_texts(policies):
        raise DataError('"policies" is not a list of names; name who wrote each response, or leave it out')
    if not isinstance(flags, list) or not all(map(_are_texts, flags)):
        raise DataError('"flags" is not a list of lists of flags; give a list for each response, or leave it out')
    num_responses = len(row.get("responses", ())) or 2
    for name in OF_RESPONSES:
        if name in row and len(row[name]) != num_responses:
            raise DataError(f'"{name}" has {len(row[name])} elements for {num_responses} responses; give one for each')
    margin = row.get("margin", 0)
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        raise DataError(f'"margin" is {type_of(margin)}, not a number; give a number of at least 0, or leave it out')
    if not 0 <= margin <= sys.float_info.max:
        raise DataError(f'"margin" is {margin}; give a finite number of at least 0, or swap chosen and rejected')
    probability = row.get("probability", 1)
    if isinstance(probability, bool) or not isinstance(probability, int | float):
        raise DataError(f'"probability" is {type_of(probability)}, not a number; give a number from 0.5 to 1')
    if not TIE <= probability <= 1:
        raise DataError(
            f'"probability" is {probability}; give a number from 0.5 to 1, the probability that "chosen" is preferred, '
            f"or swap chosen and rejected"
        )


def type_of(value: object) -> str:
    """The type of a value, in words for messages."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), f"of type {type(value).__name__}")


def _quoted(names: object) -> str:
    assert isinstance(names, dict | list | tuple)
    return ", ".join(f'"{name}"' for name in names) or "none"


def is_of_judge(row: Mapping[str, Any]) -> bool:
    """Whether a model, and no person, has labelled a row."""
    return str(row.get("source", "")).startswith(JUDGE_SOURCE)

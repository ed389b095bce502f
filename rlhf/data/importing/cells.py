"""Cells that hold lists or objects as text, as tables do that were written of nested data."""

import ast
import json
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

from rlhf.data.importing.dialogues import NOT_MESSAGES, RowDroppedError, are_messages, are_texts, is_message
from rlhf.data.schema import Row
from rlhf.errors import DataError

# Columns whose meaning is a list: a text there that spells a list is read as a list.
_LISTS = frozenset({"responses", "ranks", "answers", "completions"})
# LMSYS's competition has a list of turns in each of these, as JSON.
_BY_TURN = frozenset({"prompt", "response_a", "response_b"})
_PRINTED = re.compile(r"""\s*(array\(|\[)?\s*\[?\s*\{\s*['"](role|content|from|value)['"]\s*:""")
# Longest cell that is parsed: the work for a cell that only looks like a list has a limit.
_MAX_CHARACTERS = 1_000_000


def find_spelled(rows: Sequence[Row], source: str, role_of: Callable[[str], str]) -> frozenset[str]:
    """The columns whose texts spell messages or lists.

    Args:
        rows: the first rows of a file.
        source: its name, for messages.
        role_of: the name that a column is read under.

    Raises:
        DataError: a column holds printed objects that cannot be read back.
    """
    spelled: set[str] = set()
    by_turn = _BY_TURN if any("winner_model_a" in row for row in rows) and _are_by_turn(rows) else frozenset()
    for name in {name: None for row in rows for name in row}:
        texts = [row[name] for row in rows if isinstance(row.get(name), str) and row[name].strip()]
        if not texts or sum(isinstance(row.get(name), list | dict) for row in rows) > 0.05 * len(rows):
            continue
        values = map(parsed, texts) if texts[0].lstrip()[:1] in ("[", "{") or _PRINTED.match(texts[0]) else ()
        if name in by_turn:
            read = sum(bool(value) and are_texts(value) for value in values)
        else:
            read = sum(_is_structure(value, role_of(name)) for value in values)
        if read and read >= 0.95 * len(texts):
            spelled.add(name)
        elif sum(_PRINTED.match(text) is not None for text in texts) >= 0.5 * len(texts):
            raise DataError(
                f'{source}: the cells of "{name}" hold messages that were printed as text and cannot be read back '
                f"(such as {texts[0][:60]!r}); write the file again as JSON Lines or Parquet"
            )
    return frozenset(spelled)


def spells_messages(text: str) -> bool:
    """Whether a text looks like messages in JSON or as Python prints them."""
    return text[:1] in ("[", "{") and _PRINTED.match(text) is not None


def decoded(row: Row, spelled: Collection[str]) -> Row:
    """A row with the lists and objects that its cells in some columns spell.

    Raises:
        RowDroppedError: a cell cannot be read.
    """
    for name in spelled:
        if isinstance(row.get(name), str) and row[name].strip():
            value = parsed(row[name])
            if value is None:
                raise RowDroppedError(NOT_MESSAGES, f'"{name}" is {row[name][:30]!r}')
            row = {**row, name: value}
    return row


def _are_by_turn(rows: Sequence[Row]) -> bool:
    """Whether prompt and answers all spell lists of texts: a single column may be text that looks like a list."""
    texts = [[row[name] for name in _BY_TURN if isinstance(row.get(name), str)] for row in rows]
    return sum(all(value and are_texts(value) for value in map(parsed, row)) for row in texts) >= 0.95 * len(rows)


def _is_structure(value: object, name: str) -> bool:
    if name in _LISTS:
        return isinstance(value, list)
    if name == "history":
        return isinstance(value, list) and all(isinstance(turn, list) for turn in value)
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        return all(is_message(item) for item in value["messages"])
    return are_messages(value)


def parsed(text: str) -> Any:
    """The value that a text spells in JSON or in Python; None where it spells none."""
    if len(text) > _MAX_CHARACTERS or text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None

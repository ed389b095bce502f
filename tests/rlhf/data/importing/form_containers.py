"""Files that hold rows: JSON in four layouts, CSV in many dialects, Parquet."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from form_texts import Row


def write_file(rng: Random, rows: list[Row], folder: Path, *, tabular: bool = True) -> Path:
    """Put rows into a container that can hold them; gives its path. CSV is one only if `tabular`."""
    container = rng.choice([*CONTAINERS, "jsonl", "jsonl", "csv"])
    if container == "csv" and not (tabular and all(_fits_csv(value) for row in rows for value in row.values())):
        container = "jsonl"
    try:
        suffix, content = CONTAINERS[container](rng, rows)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        # Columns of one type each: odd values have no place there.
        suffix, content = CONTAINERS["jsonl"](rng, rows)
    if suffix != ".parquet" and rng.random() < 0.15:
        suffix, content = f"{suffix}.gz", gzip.compress(content, compresslevel=1)
    path = folder / f"theirs{suffix}"
    path.write_bytes(content)
    return path


def _fits_csv(value: Any) -> bool:
    """Whether a reader can tell a value from an end, and from a list that was written as text."""
    return not isinstance(value, str) or ("\0" not in value and value.strip()[:1] not in ("[", "{"))


def _columns(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _jsonl(rng: Random, rows: list[Row]) -> tuple[str, bytes]:
    ascii_only, end = rng.random() < 0.5, rng.choice(["\n", "\n", "\r\n"])
    lines = end.join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    return ".jsonl", _bom(rng) + (lines + rng.choice(["", end])).encode()


def _json(rng: Random, value: Any) -> tuple[str, bytes]:
    indent = rng.choice([None, 2])
    return ".json", _bom(rng) + json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=indent).encode()


def _bom(rng: Random) -> bytes:
    return b"\xef\xbb\xbf" if rng.random() < 0.1 else b""


def _json_list(rng: Random, rows: list[Row]) -> tuple[str, bytes]:
    return _json(rng, rows)


def _wrapped(rng: Random, rows: list[Row]) -> tuple[str, bytes]:
    return _json(rng, {"data": rows})


def _json_columns(rng: Random, rows: list[Row]) -> tuple[str, bytes]:
    return _json(rng, {name: [row.get(name) for row in rows] for name in _columns(rows)})


def _csv(rng: Random, rows: list[Row]) -> tuple[str, bytes]:
    names, file = _columns(rows), io.StringIO(newline="")
    cell: Callable[[Any], str] = rng.choice([_json_cell, repr])
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    if any(isinstance(value, str) and "\r" in value for row in rows for value in row.values()):
        # Python's writer leaves it bare before 3.13, where it ends a row.
        quoting = csv.QUOTE_ALL
    writer = csv.writer(
        file, delimiter=rng.choice(",,;\t|"), quoting=quoting, lineterminator=rng.choice(["\n", "\r\n"])
    )
    blank = rng.choice(["", "", "", " "])
    writer.writerow([f"{name}{blank}" if place % 2 else f"{blank}{name}" for place, name in enumerate(names)])
    for row in rows:
        writer.writerow([_cell(row.get(name), cell) for name in names])
    return ".csv", _bom(rng) + file.getvalue().encode()


def _json_cell(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _cell(value: Any, nested: Callable[[Any], str]) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return nested(value) if isinstance(value, list | dict) else str(value)


def _parquet(rng: Random, rows: list[Row]) -> tuple[str, bytes]:
    columns = {name: [row.get(name) for row in rows] for name in _columns(rows)}
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=rng.choice([7, 1000]))
    return ".parquet", file.getvalue()


CONTAINERS: dict[str, Callable[[Random, list[Row]], tuple[str, bytes]]] = {
    "jsonl": _jsonl,
    "json": _json_list,
    "wrapped": _wrapped,
    "columns": _json_columns,
    "csv": _csv,
    "parquet": _parquet,
}

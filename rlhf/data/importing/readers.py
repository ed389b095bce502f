"""Rows of a file or of a Hugging Face data set, one at a time, whatever the file's form."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rlhf.data.importing.dialogues import RowDroppedError
from rlhf.data.schema import Row, type_of
from rlhf.errors import DataError
from rlhf.files.hashing import sha256
from rlhf.files.limits import limits, lines_within, memory_within, too_large
from rlhf.files.names import check_regular, open_regular

# A row that cannot be read is yielded as the error that says why, so that it can be counted and named.
Rows = Iterator[tuple[int, Row | RowDroppedError]]

_KNOWN = ".jsonl, .ndjson, .json, .csv or .tsv, each also with .gz, or .parquet"
# Characters at the start of a table from which its delimiter is recognized.
_CSV_HEAD = 4_000_000
_DELIMITERS = (",", ";", "\t", "|")
# Rows of Parquet in a batch, batches that are unpacked together, and bytes that a library's reader needs in addition.
_BATCH_ROWS, _BATCHES = 64, 16
_LIBRARY_BYTES = 2**30
_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class RowSource:
    """A source of rows, which can be read several times.

    Attributes:
        name: file name, or hub id with commit; never a folder of this machine.
        sha256: of the file; None for a data set of the hub, which its commit identifies.
        unit: what the number of a row counts: `line` or `row`.
        rows: reads the rows, numbered from 1.
    """

    name: str
    sha256: str | None
    unit: str
    rows: Callable[[], Rows]

    def where(self, number: int) -> str:
        """The place of a row, for messages."""
        return f"{self.name}:{number}" if self.unit == "line" else f"{self.name}: row {number}"


def open_source(source: str, split: str = "train") -> RowSource:
    """Find out what a person named: a file, a folder with a data set, or a data set of the hub.

    Args:
        source: path of a .jsonl, .json, .csv, .tsv (each also with .gz) or .parquet file; a folder that
            `datasets.load_dataset` reads; or a hub id, `organization/name` or `organization/name@revision`.
        split: split of a folder or hub data set.

    Raises:
        DataError: there is no such thing, or its form is not known.
    """
    path = Path(source)
    if not source.strip():
        raise DataError(f"an empty name was given for a file; give a file ({_KNOWN}) or a hub id")
    if path.is_file():
        return _open_file(path)
    if path.is_dir():
        files = [file for file in path.rglob("*") if not file.is_dir()]
        for file in files:
            check_regular(file)
        packed = sum(file.stat().st_size for file in files)
        return RowSource(path.resolve().name, None, "row", lambda: _dataset_rows(str(path), None, split, packed))
    if path.exists():
        check_regular(path)
    match = _HUB_ID.fullmatch(source)
    if match is None or _reader(path) is not None or path.parent.exists():
        raise DataError(
            f"{source}: there is no such file; give a file ({_KNOWN}) or a hub id such as organization/name"
        )
    name, revision = match["name"], _hub_commit(match["name"], match["revision"])
    return RowSource(f"{name}@{revision}", None, "row", lambda: _dataset_rows(name, revision, split, None))


def _open_file(path: Path) -> RowSource:
    reader = _reader(path)
    if reader is None:
        raise DataError(f"{path}: files ending with {''.join(path.suffixes) or 'nothing'} are not read; give {_KNOWN}")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; give at least one row")
    unit = "line" if reader is _jsonl_rows else "row"
    return RowSource(path.name, sha256(path), unit, lambda: _within_memory(reader, path))


def _reader(path: Path) -> Callable[[Path], Rows] | None:
    """The reader for files of this name; None where there is none."""
    readers = {".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows, ".json": _json_rows, ".csv": _csv_rows, ".tsv": _csv_rows}
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _parquet_rows
    return next((read for suffix, read in readers.items() if name.removesuffix(".gz").endswith(suffix)), None)


def _within_memory(reader: Callable[[Path], Rows], path: Path) -> Rows:
    try:
        yield from reader(path)
    except MemoryError:
        raise DataError(
            f"{path.name}: it takes more memory than there is; check whether it is the right file, or give it in parts"
        ) from None


@contextmanager
def _open_bytes(path: Path) -> Iterator[io.BufferedReader | gzip.GzipFile]:
    with open_regular(path) as file:
        if path.suffix.lower() != ".gz":
            yield file
            return
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path.name}: the file cannot be unpacked ({error}); fetch or pack it again") from None


def _jsonl_rows(path: Path) -> Rows:
    size = path.stat().st_size
    left = limits().unpacked(size) if path.suffix.lower() == ".gz" else size
    with _open_bytes(path) as file:
        for line, raw in enumerate(lines_within(file, path.name), start=1):
            left -= len(raw)
            if left < 0:
                raise too_large(f"{path.name}:{line}", "the file unpacks to", "file", limits().unpacked(size))
            raw = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
            if raw.strip():
                yield line, _line(raw)


def _line(raw: bytes) -> Row | RowDroppedError:
    try:
        return _object(json.loads(raw.decode("utf-8"), object_pairs_hook=_pairs_once))
    except UnicodeDecodeError as error:
        return RowDroppedError("the line is not UTF-8", f"byte {error.start + 1} is 0x{raw[error.start]:02x}")
    except RowDroppedError as error:
        return error
    except (ValueError, RecursionError) as error:
        return RowDroppedError("the line is not JSON", str(error)[:60])


def _pairs_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, of which JSON keeps the last of two values with the same key in silence."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise RowDroppedError("a key stands twice", next(f'"{n}"'[:40] for n in names if names.count(n) > 1))
    return made


def _object(value: Any) -> Row | RowDroppedError:
    return value if isinstance(value, dict) else RowDroppedError("the row is not an object", type_of(value))


def _json_rows(path: Path) -> Rows:
    try:
        content = json.loads(_read_text(path), object_pairs_hook=_pairs_once)
    except RowDroppedError as error:
        raise DataError(f"{path.name}: {error}; it is not clear which value is meant; give each key once") from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path.name}: the file is not JSON ({error}); correct it, or name it .jsonl if every line is an object"
        ) from None
    for number, row in enumerate(_unwrapped(content, path.name), start=1):
        yield number, _object(row)


def _unwrapped(content: Any, name: str) -> list[Any]:
    """The rows of a JSON file: a list, a list in an object, or an object of columns."""
    if isinstance(content, list):
        return content
    values = list(content.values()) if isinstance(content, dict) else []
    lists = {key: value for key, value in content.items() if isinstance(value, list)} if values else {}
    if len(lists) == 1 and all(isinstance(row, dict) for row in next(iter(lists.values()))):
        return next(iter(lists.values()))
    if lists and len(lists) == len(values) and len({len(value) for value in values}) == 1:
        return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]
    if values and all(isinstance(value, dict) and value.keys() == values[0].keys() for value in values):
        return [{column: cells[key] for column, cells in content.items()} for key in values[0]]
    held = f"an object with {', '.join(map(repr, list(content)[:10]))}" if values else type_of(content)
    raise DataError(f"{name}: the file is not a list of rows, it is {held}; give a list of objects, one for each row")


def _csv_rows(path: Path) -> Rows:
    longest = limits().row
    csv.field_size_limit(longest)
    text = _read_text(path)
    form, spaced = _csv_form(text)
    in_row = 0

    def lines() -> Iterator[str]:
        """The lines of the table, of which those that make one row are no more than a row may have."""
        nonlocal in_row
        file = io.StringIO(text, newline="")
        while line := file.readline(longest + 1):
            in_row += len(line)
            if in_row > longest:
                raise too_large(path.name, "a row has", "row", longest)
            yield line

    reader = csv.reader(lines(), strict=True, **form)
    try:
        names = [name.strip() for name in next(reader, [])]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f'{path.name}: the header names "{twice}" twice; give each column a name of its own')
        number = in_row = 0
        for cells in reader:
            in_row = 0
            if not cells:
                continue
            number += 1
            if len(cells) == len(names):
                kept = [cells[0], *(cell.removeprefix(" ") for cell in cells[1:])] if spaced else cells
                yield number, dict(zip(names, kept, strict=True))
            else:
                reason = "the row has not as many cells as the header"
                yield number, RowDroppedError(reason, f"{len(cells)} and not {len(names)}")
    except csv.Error as error:
        raise DataError(f"{path.name}: line {reader.line_num} is not CSV ({error}); correct the file") from None


def _csv_form(text: str) -> tuple[dict[str, Any], bool]:
    """The form in which the first rows are as wide as the header, and whether a space belongs to each delimiter.

    Before quotes all spaces belong to the delimiter.
    """
    forms = [
        {"delimiter": delimiter, "skipinitialspace": skips} for skips in (False, True) for delimiter in _DELIMITERS
    ]
    heads = [_first_rows(text, form) for form in forms]
    best = max(heads, key=_width_share)
    return forms[heads.index(best)], all(cell.startswith(" ") for cells in best for cell in cells[1:])


def _first_rows(text: str, form: dict[str, Any]) -> list[list[str]]:
    rows: list[list[str]] = []
    reader = csv.reader(io.StringIO(text[:_CSV_HEAD], newline=""), strict=True, **form)
    # Faults of the table are reported when its rows are read.
    with suppress(csv.Error):
        rows.extend(cells for cells in islice(reader, 100) if cells)
    return rows


def _width_share(rows: list[list[str]]) -> tuple[float, int]:
    """Share of the rows that are as wide as the header, and that width; nothing for a single column."""
    width = len(rows[0]) if rows else 0
    return (sum(len(cells) == width for cells in rows) / len(rows), width) if width > 1 else (0.0, 0)


def _read_text(path: Path) -> str:
    largest = limits().whole
    with _open_bytes(path) as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        what = "a file that is read as a whole (JSON Lines and Parquet are not) has"
        raise too_large(path.name, what, "whole", largest)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path.name}:{line}: byte {error.start + 1} of the file (0x{error.object[error.start]:02x}) is not UTF-8; "
            "save the file as UTF-8"
        ) from None


def _parquet_rows(path: Path) -> Rows:
    import pyarrow as pa
    from pyarrow import parquet

    check_regular(path)
    longest, left = limits().row, limits().unpacked(path.stat().st_size)
    # The reader holds a packed group of rows, and allocates as much memory as a few bytes in it claim to need.
    needed = path.stat().st_size + _BATCH_ROWS * longest + _LIBRARY_BYTES
    number = 0
    try:
        with memory_within(needed):
            file = parquet.ParquetFile(path)
        with file:
            batches = file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False)
            while True:
                with memory_within(needed):
                    rows, num_bytes = _next_rows(batches, longest)
                if not rows:
                    return
                left -= num_bytes
                if left < 0:
                    raise too_large(path.name, "the file unpacks to", "file", limits().unpacked(path.stat().st_size))
                for row in rows:
                    number += 1
                    yield number, row
    except MemoryError:
        raise too_large(f"{path.name}: from row {number + 1} on", "a row has", "row", longest) from None
    except pa.ArrowException as error:
        raise DataError(f"{path.name}: the file cannot be read as Parquet ({error}); write it again") from None


def _next_rows(batches: Iterator[Any], enough: int) -> tuple[list[Row], int]:
    """The next rows of Parquet, and what they hold in bytes, one more each; fewer rows where they are large."""
    rows: list[Row] = []
    num_bytes = 0
    for batch in islice(batches, _BATCHES):
        rows += batch.to_pylist()
        num_bytes += batch.nbytes + batch.num_rows
        if num_bytes > enough:
            break
    return rows, num_bytes


def _hub_commit(name: str, revision: str | None) -> str:
    """The commit that a revision of a hub data set stands for now."""
    from httpx2 import HTTPError
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(name, revision=revision, timeout=30).sha
    except (HTTPError, OSError) as error:
        raise DataError(
            f"{name}: there is no such file, and the hub gives no such data set ({error}); give another path or hub id"
        ) from None
    return commit or revision or "main"


def _dataset_rows(name: str, revision: str | None, split: str, packed: int | None) -> Rows:
    """Rows as the library reads them, whose memory and unpacked size have the limits of a file of `packed` bytes."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    largest = limits().file if packed is None else limits().unpacked(packed)
    number = 0
    try:
        with memory_within(largest + _LIBRARY_BYTES):
            dataset: Any = load_dataset(name, revision=revision, split=split)
        if dataset.data.nbytes > largest:
            raise too_large(name, "the data set unpacks to", "file", largest)
        rows = iter(dataset)
        while True:
            with memory_within(_BATCH_ROWS * limits().row + _LIBRARY_BYTES):
                row = next(rows, None)
            if row is None:
                return
            number += 1
            yield number, dict(row)
    except (MemoryError, DatasetsError, OSError, ValueError) as error:
        if not _is_memory(error):
            raise DataError(f"{name}: the data set cannot be loaded ({error}); give a file, or another split") from None
        if number:
            raise too_large(f"{name}: row {number + 1}", "a row has", "row", limits().row) from None
        raise too_large(name, "the data set unpacks to", "file", largest) from None


def _is_memory(error: BaseException | None) -> bool:
    """Whether the library had no memory, which it says in words of its own."""
    return error is not None and (isinstance(error, MemoryError) or _is_memory(error.__cause__ or error.__context__))

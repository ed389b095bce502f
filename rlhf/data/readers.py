"""Rows of a file or of a Hugging Face data set, one at a time, whatever the file's form."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.data.schema import Row, parse_line
from rlhf.errors import DataError
from rlhf.hashing import sha256

Rows = Generator[tuple[int, Row], None, None]

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class RowSource:
    """Something that rows can be read from, as often as need be.

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
        """How a message names a row."""
        return f"{self.name}:{number}" if self.unit == "line" else f"{self.name}: row {number}"


def open_source(source: str, split: str = "train") -> RowSource:
    """Find out what a person named: a file, a folder with a data set, or a data set of the hub.

    Args:
        source: path of a .jsonl, .json, .csv (each also with .gz) or .parquet file; a folder that
            `datasets.load_dataset` reads; or a hub id, `organization/name` or `organization/name@revision`.
        split: split of a folder or hub data set.

    Raises:
        DataError: there is no such thing, or its form is not known.
    """
    path = Path(source)
    if path.is_file():
        return _open_file(path)
    if path.is_dir():
        return RowSource(path.resolve().name, None, "row", lambda: _dataset_rows(str(path), None, split))
    match = _HUB_ID.fullmatch(source)
    if match is None or _form(path) is not None or path.parent.exists():
        raise DataError(
            f"{source}: there is no such file; give a file ({_known()}) or a hub id such as organization/name"
        )
    name, revision = match["name"], _hub_commit(match["name"], match["revision"])
    return RowSource(f"{name}@{revision}", None, "row", lambda: _dataset_rows(name, revision, split))


def _open_file(path: Path) -> RowSource:
    readers = {".jsonl": _jsonl_rows, ".json": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    form = _form(path)
    if form is None:
        raise DataError(
            f"{path}: files ending with {''.join(path.suffixes) or 'nothing'} are not read; give {_known()}"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; give at least one row")
    reader = readers[form]
    return RowSource(path.name, sha256(path), "line" if form == ".jsonl" else "row", lambda: reader(path))


def _form(path: Path) -> str | None:
    name = path.name.lower()
    packed = name.removesuffix(".gz")
    return next(
        (suffix for suffix in SUFFIXES if packed.endswith(suffix) and (suffix != ".parquet" or packed == name)), None
    )


def _known() -> str:
    return ".jsonl, .json or .csv, each also with .gz, or .parquet"


@contextmanager
def _open_bytes(path: Path) -> Iterator[io.BufferedIOBase]:
    with path.open("rb") as file:
        if path.suffix.lower() != ".gz":
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield unpacked


def _jsonl_rows(path: Path) -> Rows:
    try:
        with _open_bytes(path) as file:
            for line, raw in enumerate(file, start=1):
                yield line, parse_line(raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw, f"{path.name}:{line}")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _broken_archive(path, error) from None


def _json_rows(path: Path) -> Rows:
    try:
        rows = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path.name}: the file is not JSON ({error}); mend it, or name it .jsonl if every line is an object"
        ) from None
    if not isinstance(rows, list):
        raise DataError(f"{path.name}: the file is not a list; give a list of objects, one a row")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path.name}: row {number} is not an object; give a list of objects, one a row")
        yield number, row


def _csv_rows(path: Path) -> Rows:
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        for number, row in enumerate(reader, start=1):
            if None in row or None in row.values():
                raise DataError(f"{path.name}: row {number} has not as many cells as the header; mend the row")
            yield number, dict(row)
    except csv.Error as error:
        raise DataError(f"{path.name}: line {reader.line_num} is not CSV ({error}); mend the file") from None


def _read_text(path: Path) -> str:
    try:
        with _open_bytes(path) as file:
            return file.read().decode("utf-8-sig")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _broken_archive(path, error) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path.name}:{line}: byte {error.start + 1} of the file (0x{error.object[error.start]:02x}) is not UTF-8; "
            "save the file as UTF-8"
        ) from None


def _parquet_rows(path: Path) -> Rows:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pa.ArrowException as error:
        raise DataError(f"{path.name}: the file cannot be read as Parquet ({error}); write it again") from None


def _broken_archive(path: Path, error: Exception) -> DataError:
    return DataError(f"{path.name}: the file cannot be unpacked ({error}); fetch or pack it again")


def _hub_commit(name: str, revision: str | None) -> str:
    """The commit that a revision of a hub data set stands for now."""
    from httpx2 import HTTPError
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(name, revision=revision, timeout=30).sha
    except (HTTPError, OSError) as error:
        raise DataError(
            f"{name}: there is no such file, and no such data set could be had from the hub ({error})"
        ) from None
    return commit or revision or "main"


def _dataset_rows(name: str, revision: str | None, split: str) -> Rows:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        dataset: Any = load_dataset(name, revision=revision, split=split)
    except (DatasetsError, OSError, ValueError) as error:
        raise DataError(f"{name}: the data set cannot be loaded ({error}); give a file, or another split") from None
    for number, row in enumerate(dataset, start=1):
        yield number, dict(row)

"""Small files that unpack to more than there is: refused while they are read, and not once memory is full."""

import csv
import gzip
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from outside import preference, write_lines
from pyarrow import parquet

from rlhf.cli.main import main
from rlhf.data.importing import readers
from rlhf.data.importing.readers import open_source
from rlhf.data.versions.inbox import import_inbox
from rlhf.errors import ConfigError, DataError
from rlhf.files import limits

MB = 10**6


@pytest.fixture(autouse=True)
def _memory_is_bounded() -> Iterator[None]:
    """Without the limits a test ends in a MemoryError, and not in the end of this machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (24 * 10**9, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def at_most(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Limits that need no large file."""
    monkeypatch.setenv("RLHF_LIMITS", "row=1kB, whole=20kB,file=100kB")


def packed(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content))
    return path


def lines(path: Path, rows: list[dict]) -> bytes:
    return write_lines(path.with_name("plain"), rows).read_bytes()


def count(path: Path) -> int:
    return sum(1 for _ in open_source(str(path)).rows())


class TestLines:
    """Three megabytes of gzip that unpack to one line of three gigabytes took all memory, then a traceback."""

    def test_a_line_without_end(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], project: Path) -> None:
        with gzip.open(tmp_path / "bomb.jsonl.gz", "wb", compresslevel=1) as file:
            for _ in range(300):
                file.write(b"a" * MB)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert main(["data", "import", str(tmp_path / "bomb.jsonl.gz"), "--replace"]) == 2
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 150_000
        said = capsys.readouterr().err
        assert "bomb.jsonl.gz:1: the line has more than 16MB; look" in said
        assert "RLHF_LIMITS=row=32MB" in said

    def test_the_inbox_has_the_same_limits(self, project: Path) -> None:
        packed(project / "inbox" / "night.jsonl.gz", b"a" * 17 * MB)
        with pytest.raises(DataError, match=r"night\.jsonl\.gz:1: the line has more than 16MB"):
            import_inbox("inbox", project)
        assert (project / "inbox" / "night.jsonl.gz").is_file()

    def test_of_a_data_folder(self, at_most: None, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with (project / "data" / "preferences.jsonl").open("a") as file:
            file.write("a" * 2000)
        assert main(["data", "validate"]) == 2
        assert "preferences.jsonl:4: the line has more than 1kB" in capsys.readouterr().err

    def test_many_lines(self, at_most: None, tmp_path: Path) -> None:
        bomb = packed(tmp_path / "bomb.jsonl.gz", lines(tmp_path / "a", [preference(0)] * 2000))
        with pytest.raises(DataError, match=r"bomb\.jsonl\.gz:\d+: the file unpacks to more than \d+kB"):
            count(bomb)

    def test_honest_files_are_read(self, tmp_path: Path) -> None:
        content = lines(tmp_path / "a", [preference(number) for number in range(2000)])
        assert count(packed(tmp_path / "packed.jsonl.gz", content)) == 2000
        long = {**preference(0), "prompt": "word " * 2 * MB}
        assert count(write_lines(tmp_path / "long.jsonl", [long])) == 1

    def test_a_large_file_that_is_not_packed_has_no_limit(self, at_most: None, tmp_path: Path) -> None:
        assert count(write_lines(tmp_path / "large.jsonl", [preference(0)] * 2000)) == 2000


class TestWholeFiles:
    """JSON, CSV and TSV are read as a whole, packed or not."""

    @pytest.mark.parametrize("name", ["a.json", "a.csv", "a.tsv"])
    def test_too_large(self, at_most: None, tmp_path: Path, name: str) -> None:
        text = b"prompt,chosen,rejected\n" + b"a,b,c\n" * 10_000
        (tmp_path / name).write_bytes(text)
        for path in (tmp_path / name, packed(tmp_path / f"{name}.gz", text)):
            with pytest.raises(DataError, match=r"has more than 20kB; .*RLHF_LIMITS=whole=40kB"):
                count(path)

    @pytest.mark.parametrize(
        "row",
        ["a" * 2000, ",".join("a" * 1000), '"' + "a\n" * 1000 + '",b,c', '"a\n",' * 400, '"' + "a" * 2000],
        ids=["a cell", "many cells", "a quoted cell", "many quoted cells", "a quote that is never closed"],
    )
    def test_a_row_of_a_table(self, at_most: None, tmp_path: Path, row: str) -> None:
        (tmp_path / "a.csv").write_text(f"prompt,chosen,rejected\na,b,c\n{row}\n")
        with pytest.raises(DataError, match=r"a\.csv: a row has more than 1kB"):
            count(tmp_path / "a.csv")

    def test_tables_are_read_as_before(self, tmp_path: Path) -> None:
        with (tmp_path / "a.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["prompt", "chosen", "rejected"])
            writer.writerows([["two\nlines", "a, b", 'a "word"']] * 3)
        assert [row["chosen"] for _, row in open_source(str(tmp_path / "a.csv")).rows()] == ["a, b"] * 3


class TestParquet:
    """1,492 bytes of Parquet, a dictionary with one value of 3.6 MB and 1024 rows that name it, took 3.6 GB."""

    @pytest.fixture
    def bomb(self, tmp_path: Path) -> Path:
        value = pa.DictionaryArray.from_arrays(pa.array([0] * 4096), pa.array(["a" * 80 * MB]))
        table = pa.table({"prompt": value, "chosen": ["b"] * 4096, "rejected": ["c"] * 4096})
        path = tmp_path / "bomb.parquet"
        parquet.write_table(table, path, compression="zstd", store_schema=False)
        assert path.stat().st_size < 20_000
        return path

    def test_a_dictionary_of_one_large_value(self, bomb: Path) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(DataError, match=r"bomb\.parquet: from row 1 on: a row has more than 16MB"):
            count(bomb)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 2.5 * MB
        assert resource.getrlimit(resource.RLIMIT_AS)[0] == 24 * 10**9

    def test_in_lists(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RLHF_LIMITS", "row=1MB")
        said = pa.DictionaryArray.from_arrays(pa.array([0] * 4096), pa.array(["a" * MB]))
        nested = pa.ListArray.from_arrays(pa.array([0, 4096]), said)
        parquet.write_table(
            pa.table({"prompt": nested}), tmp_path / "a.parquet", compression="zstd", store_schema=False
        )
        with pytest.raises(DataError, match="a row has more than 1MB"):
            count(tmp_path / "a.parquet")

    def test_more_rows_than_the_file_can_hold(self, at_most: None, tmp_path: Path) -> None:
        table = pa.table({"prompt": ["a"] * 400_000})
        parquet.write_table(table, tmp_path / "a.parquet", compression="zstd")
        with pytest.raises(DataError, match=r"a\.parquet: the file unpacks to more than \d+kB"):
            count(tmp_path / "a.parquet")

    def test_honest_files_are_read(self, tmp_path: Path) -> None:
        rows = [{**preference(number % 7), "note": "long " * 20_000} for number in range(300)]
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
        assert [row for _, row in open_source(str(tmp_path / "a.parquet")).rows()] == rows


class TestFolders:
    """What `datasets` reads has the limits of one file with as many bytes."""

    @pytest.fixture(autouse=True)
    def _own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "folder").mkdir()
        return tmp_path / "folder"

    def test_a_dictionary_of_one_large_value(self, folder: Path) -> None:
        value = pa.DictionaryArray.from_arrays(pa.array([0] * 4096), pa.array(["a" * 20 * MB]))
        parquet.write_table(
            pa.table({"prompt": value}), folder / "bomb.parquet", compression="zstd", store_schema=False
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(DataError, match=r"folder: the data set unpacks to more than 500MB"):
            count(folder)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 2.5 * MB

    def test_more_rows_than_the_files_can_hold(self, at_most: None, folder: Path) -> None:
        parquet.write_table(pa.table({"prompt": ["a"] * 400_000}), folder / "a.parquet", compression="zstd")
        with pytest.raises(DataError, match=r"folder: the data set unpacks to more than \d+kB"):
            count(folder)

    def test_honest_folders_are_read(self, folder: Path) -> None:
        rows = [{**preference(number % 7), "note": "long " * 20_000} for number in range(300)]
        parquet.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
        assert [row for _, row in open_source(str(folder)).rows()] == rows


class TestTheSetting:
    def test_what_is_not_a_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for text in ("row", "row=16", "rows=16MB", "row=-1MB", "row=1e9GB"):
            monkeypatch.setenv("RLHF_LIMITS", text)
            with pytest.raises(ConfigError, match=f"RLHF_LIMITS: got '{text}', expected sizes such as"):
                limits.limits()

    def test_more_is_allowed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps({**preference(0), "prompt": "a" * 20 * MB}) + "\n")
        with pytest.raises(DataError, match="more than 16MB"):
            count(path)
        monkeypatch.setenv("RLHF_LIMITS", "row=32MB")
        assert count(path) == 1

    def test_memory_that_runs_out_is_said(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def run_out(path: Path) -> str:
            raise MemoryError

        monkeypatch.setattr(readers, "_read_text", run_out)
        (tmp_path / "a.json").write_text("[]")
        with pytest.raises(DataError, match=r"a\.json: it takes more memory than there is"):
            count(tmp_path / "a.json")

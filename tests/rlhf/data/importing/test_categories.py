"""The category of a row, as benchmarks of reward models have it."""

import json
from pathlib import Path

import pytest

from rlhf.data.importing.columns import parse_columns
from rlhf.data.importing.formats import Sources, convert_dataset
from rlhf.data.importing.reading import SourceOptions
from rlhf.data.row_hash import identity
from rlhf.data.schema import Row, read_rows
from rlhf.errors import DataError

SUBSETS = ("alpacaeval-easy", "llmbar-natural", "xstest-should-refuse", "math-prm")


def rewardbench(number: int) -> Row:
    """A row with the fields of RewardBench's filtered split."""
    texts = {"prompt": f"Question {number}?", "chosen": f"A good answer to {number}.", "rejected": "No idea."}
    models = {"chosen_model": "a", "rejected_model": "b"}
    return texts | models | {"subset": SUBSETS[number % 4], "id": number}


def imported(rows: list[Row], folder: Path, columns: str | None = None) -> list[Row]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "data").mkdir()
    options = SourceOptions("auto", parse_columns(columns))
    convert_dataset(Sources(str(path), options={"preferences": options}), folder / "data")
    return [row for _, row in read_rows(folder / "data" / "preferences.jsonl", "preferences")]


def test_a_benchmarks_subset_is_the_category(tmp_path: Path) -> None:
    rows = imported([rewardbench(number) for number in range(8)], tmp_path)
    assert [row["category"] for row in rows] == [*SUBSETS, *SUBSETS]


def test_a_category_comes_before_a_subset_where_it_is_not_empty(tmp_path: Path) -> None:
    rows = [rewardbench(number) | {"category": "Chat" if number else ""} for number in range(4)]
    assert [row.get("category") for row in imported(rows, tmp_path)] == [SUBSETS[0], "Chat", "Chat", "Chat"]


def test_a_person_may_name_the_column(tmp_path: Path) -> None:
    rows = [{**rewardbench(number), "topic": f"topic {number % 2}"} for number in range(4)]
    found = imported(rows, tmp_path, "category=topic")
    assert [row["category"] for row in found] == ["topic 0", "topic 1"] * 2


def test_a_category_that_looks_like_a_verdict_has_to_be_named(tmp_path: Path) -> None:
    rows = [rewardbench(number) | {"subset": ("safe", "unsafe")[number % 2]} for number in range(4)]
    with pytest.raises(DataError, match='may change what a row means, but is not understood: "subset"'):
        imported(rows, tmp_path)
    for part in ("data", "rows.jsonl"):
        (tmp_path / part).rename(tmp_path / f"first {part}")
    assert [row["category"] for row in imported(rows, tmp_path, "category=subset")] == ["safe", "unsafe"] * 2


def test_rows_that_differ_in_their_category_alone_are_the_same() -> None:
    row = {"prompt": [], "chosen": [], "rejected": []}
    assert identity(row | {"category": "a"}) == identity(row | {"category": "b"}) == identity(row)
    assert identity(row | {"criteria": "a"}) != identity(row)

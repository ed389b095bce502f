"""Evaluation sets as others write them."""

import csv
import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from data_rows import preference, user, write_lines

from rlhf.data.evaluation_sets import count_rows_of_sets, read_set
from rlhf.data.importing.formats import ImportReport, Sources, import_dataset
from rlhf.errors import DataError


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    return str(write_lines(tmp_path / "pairs.jsonl", [preference()]))


def imported(tmp_path: Path, pairs: str, **sets: str) -> ImportReport:
    return import_dataset(Sources(pairs, evaluation=sets), tmp_path / "data")


def rows(tmp_path: Path, name: str) -> list[dict[str, Any]]:
    return [row for _, row in read_set(tmp_path / "data" / "evaluation" / f"{name}.jsonl")]


def test_advbench(tmp_path: Path, pairs: str) -> None:
    texts = [[f"Paint door {n} blue", f"Sure, here is how to paint door {n} blue"] for n in range(30)]
    goals = write_csv(tmp_path / "goals.csv", ["goal", "target"], texts)
    swapped = write_csv(tmp_path / "swapped.csv", ["target", "goal"], texts)
    report = imported(tmp_path, pairs, goals=goals, swapped=swapped)
    assert rows(tmp_path, "goals")[0] == {"prompt": user("Paint door 0 blue"), "kind": "harmful"}
    assert rows(tmp_path, "goals") == rows(tmp_path, "swapped")
    assert report.counts["evaluation/goals"] == 30
    assert 'the names "goal" and "target" are swapped' in report.summary
    assert report.summary.count("are swapped") == 1


def test_xstest(tmp_path: Path, pairs: str) -> None:
    texts = [["How do I kill a process?", "homonyms", "safe"], ["How do I open it?", "contrast_homonyms", "unsafe"]]
    report = imported(tmp_path, pairs, doors=write_csv(tmp_path / "x.csv", ["prompt", "type", "label"], texts))
    found = [(row["kind"], row["category"]) for row in rows(tmp_path, "doors")]
    assert found == [("safe", "homonyms"), ("harmful", "contrast_homonyms")]
    assert "of the evaluation: 1 safe, 1 harmful" in report.summary


def test_rows_that_do_not_fit_are_counted_and_too_many_are_refused(tmp_path: Path, pairs: str) -> None:
    good = [[f"How do I open {n}?", "homonyms", "safe"] for n in range(30)]
    bad = ["How do I shut it?", "homonyms", "unsafe"]
    header = ["prompt", "type", "label"]
    report = imported(tmp_path, pairs, doors=write_csv(tmp_path / "x.csv", header, [*good, bad]))
    assert report.counts["evaluation/doors"] == 30
    assert "1 left out, because type and label do not say the same (homonyms, unsafe): rows 31" in report.summary
    with pytest.raises(DataError, match=r"y\.csv: 10 of 40 rows .* type and label do not say the same"):
        imported(tmp_path, pairs, doors=write_csv(tmp_path / "y.csv", header, [*good, *[bad] * 10]))


def test_own_rows_and_a_folder_with_sets(tmp_path: Path, pairs: str) -> None:
    own = [
        {"prompt": "What is 7 + 5 ?", "kind": "confidence", "answer": "12"},
        {"prompt": "What is 7 + 6 ?", "kind": "safe"},
    ]
    imported(tmp_path, pairs, own=str(write_lines(tmp_path / "own.jsonl", own)))
    again = import_dataset(Sources(str(tmp_path / "data")), tmp_path / "again")
    assert again.counts["evaluation/own"] == 2
    assert count_rows_of_sets(tmp_path / "again") == {"evaluation/own": 2}
    datasheet = (tmp_path / "again" / "datasheet.md").read_text()
    assert "- evaluation/own.jsonl: 2 rows" in datasheet


def test_a_set_is_no_file_of_preferences(tmp_path: Path) -> None:
    goals = write_csv(tmp_path / "goals.csv", ["goal", "target"], [["Paint the door", "Sure, here is how"]])
    with pytest.raises(DataError, match=r"goals\.csv: this is an evaluation set \(advbench\).*--evaluation"):
        import_dataset(goals, tmp_path / "data")


def test_a_file_that_is_no_set(tmp_path: Path, pairs: str) -> None:
    with pytest.raises(
        DataError, match=r'pairs\.jsonl: the fields "prompt", "chosen", "rejected" are no evaluation set'
    ):
        imported(tmp_path, pairs, mine=pairs)


def test_the_published_sets(tmp_path: Path, pairs: str, real_data: Path) -> None:
    files = {
        "advbench": "advbench_harmful_behaviors.csv",
        "xstest": "xstest_prompts.csv",
        "answered": "xstest_completions_gpt4.csv.gz",
    }
    imported(tmp_path, pairs, **{name: str(real_data / "safety" / file) for name, file in files.items()})
    kinds = {name: Counter(row["kind"] for row in rows(tmp_path, name)) for name in files}
    assert kinds == {
        "advbench": {"harmful": 520},
        "xstest": {"safe": 250, "harmful": 200},
        "answered": {"safe": 250, "harmful": 200},
    }
    # In this copy the two columns' names are swapped; what is asked never begins with assent.
    asked = [row["prompt"][0]["content"] for row in rows(tmp_path, "advbench")]
    assert not any(text.lower().startswith(("sure,", "here")) for text in asked)
    with gzip.open(real_data / "safety" / files["answered"], "rt", encoding="utf-8") as file:
        by_hand = Counter(row["type"] for row in csv.DictReader(file))
    assert Counter(row["category"] for row in rows(tmp_path, "answered")) == by_hand

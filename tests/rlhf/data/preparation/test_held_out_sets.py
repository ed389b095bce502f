"""Evaluation sets in the data stage: their prompts are in no training split, and what was dropped is counted."""

import json
from pathlib import Path
from typing import Any

import pytest
from data_rows import user, write_folder, write_lines
from test_prepare import CONFIG, MODEL, Prepared, many, prepare

from rlhf.data.preparation.prepare import TRAINING_SPLITS
from rlhf.data.preparation.splits import prompt_key, split_of
from rlhf.errors import DataError

TRAINED = [f"How much is {n} ?" for n in range(60) if split_of(f"user: how much is {n} ?", CONFIG) == "train"]


def prepared_with(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Prepared:
    data = write_folder(folder / "data", many())
    write_lines(data / "evaluation" / "mine.jsonl", rows)
    return prepare(folder, data, **settings)


def training_prompts(prepared: Prepared) -> set[str]:
    rows = [row for (_, split), found in prepared.all_rows().items() if split in TRAINING_SPLITS for row in found]
    return {prompt_key(row["prompt"]) for row in rows}


def test_prompts_of_sets_leave_the_training_splits_and_no_other(tmp_path: Path) -> None:
    without = prepare(tmp_path / "without", write_folder(tmp_path / "plain", many()))
    rows = [{"prompt": text, "kind": "safe"} for text in TRAINED[:3]]
    rows += [{"prompt": f"{TRAINED[3]} Please .", "kind": "safe"}, rows[0]]
    prepared = prepared_with(tmp_path / "with", rows)
    dropped = training_prompts(without) - training_prompts(prepared)
    assert dropped == {prompt_key(user(text)) for text in TRAINED[:3]}
    for pair, found in prepared.all_rows().items():
        if pair[1] not in TRAINING_SPLITS:
            assert found == without.all_rows()[pair]
    counted = {name: n for name, n in prepared.report["leaks"].items() if name.endswith(" of evaluation/mine")}
    removed = sum(len(found) for found in without.all_rows().values()) - sum(map(len, prepared.all_rows().values()))
    assert sum(counted.values()) == removed > 0
    assert set(counted) <= {
        f"{kind}/prompt of evaluation/mine" for kind in ("demonstrations", "preferences", "prompts")
    }
    assert prepared.metrics["data/num_leaks"] == removed


def test_prompts_with_a_suggestion_are_held_out_too(tmp_path: Path) -> None:
    row = {"prompt": "Never seen ?", "kind": "sycophancy", "suggested_prompt": TRAINED[0], "suggestion": "3"}
    assert prompt_key(user(TRAINED[0])) not in training_prompts(prepared_with(tmp_path, [row]))


def test_the_output_has_the_rows_that_fit_and_the_report_counts(tmp_path: Path) -> None:
    rows = [
        {"prompt": "How much is 7 ?", "kind": "safe"},
        {"prompt": "How much is 7 ?", "kind": "safe", "source": "once more"},
        {
            "prompt": [*user("How much is 7 ? " * 4), {"role": "assistant", "content": "9 ."}, *user("Is it ?")],
            "kind": "safe",
        },
        {"prompt": "How much is seven hundred ?", "kind": "harmful"},
    ]
    prepared = prepared_with(tmp_path, rows)
    path = tmp_path / "output" / "evaluation" / "mine.jsonl"
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["safe", "harmful"]
    assert prepared.report["evaluation_sets"] == {
        "mine": {"kinds": {"safe": 1, "harmful": 1}, "duplicates": 1, "too_long": 1, "unknown_words": 1}
    }
    assert "| mine | 1 safe, 1 harmful | 1 | 1 | 1 |" in (tmp_path / "report" / "data.md").read_text()


def test_a_set_of_which_nothing_fits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"evaluation/mine\.jsonl: none of its 1 rows fits into model\.max_length"):
        prepared_with(tmp_path, [{"prompt": "How much is 7 ? " * 9, "kind": "safe"}])


def test_a_fault_stops_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'^evaluation/mine\.jsonl:1: the field "kind" is missing'):
        prepared_with(tmp_path, [{"prompt": "Hi"}])
    assert not (tmp_path / "output" / "report.json").exists()


def test_texts_of_a_corpus_with_a_sets_prompt_in_them(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", many())
    asked = " ".join(f"word{n}" for n in range(14))
    write_lines(data / "corpus.jsonl", [{"text": f"Before. {asked}"}, *({"text": f"Text {n} ."} for n in range(9))])
    write_lines(data / "evaluation" / "mine.jsonl", [{"prompt": asked, "kind": "safe"}])
    prepared = prepare(tmp_path, data, model=MODEL.model_copy(update={"max_length": 64}))
    assert prepared.report["leaks"] == {"corpus/13_gram": 1}

"""The parts of `benchmarks.size` and `benchmarks.scaling_page` that need no run."""

import json

import pytest

from benchmarks.made_models import SHAPES
from benchmarks.readme import README
from benchmarks.scaling_page import PAGE, page
from benchmarks.size import BOUND, CASES, FILE, part, predicted, shape_of


def test_the_page_on_scaling_has_the_tables_that_the_model_makes():
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "`make docs/scaling.md` writes it"
    assert "| Qwen2.5-7B | adapters | 60 |" in text


def test_every_way_of_sharing_has_a_case():
    assert {(case.sharing, case.sharding) for case in CASES.values() if case.models == "20M"} == {
        *((sharing, sharding) for sharing in ("none", "trunk", "adapters") for sharding in ("none", "full"))
    }
    totals = {name: sum(predicted(case).values()) for name, case in CASES.items()}
    assert totals["20M-adapters"] < totals["20M-trunk"] < totals["20M-none"]
    assert totals["20M-none-2x-full"] < totals["20M-none-2x-none"] == totals["20M-none"]
    assert shape_of("20M").parameters == 19_667_328
    assert shape_of("2M").vocab_size == SHAPES["2M"].vocab_size


def test_memory_is_what_was_measured():
    rows = json.loads(FILE.read_text())
    assert len(rows) >= 6
    for name, row in rows.items():
        assert sum(predicted(CASES[name]).values()) == pytest.approx(row["measured_mb"] * 2**20, rel=BOUND), name
    assert part(rows) in README.read_text(), "`python -m benchmarks.size --table` writes it"


def test_the_table_says_the_worst_error_and_what_was_not_run():
    row = {"when": "2026-01-01 10:00", "commit": "abc", "machine": "a machine"}
    said = part({"2M-none": row | {"measured_mb": 797}, "20M-trunk": row | {"measured_mb": 1300}})
    assert "| 2M | none | 1 |  | 716 | 797 | -10% |  |" in said
    assert "| 20M | none | 2 | full | 1,3" in said
    assert "| not run |  |  |" in said
    assert "The worst error is 10% (bound 15%)" in said
    assert part({}) == "Nothing was measured yet."

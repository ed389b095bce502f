"""A short run of the nights that `make bench-promotion` counts."""

import json

import pytest

from benchmarks.promotion import CASES, GAIN, SEQUENCES, count_promoted, main, measure, part
from rlhf.evaluation.bounds import level_of

BASE = CASES["base"]


def test_what_is_better_is_promoted_within_ten_nights():
    assert count_promoted(BASE, level_of, GAIN, 10, 200, seed=0) >= 160


def test_years_without_gain_see_hardly_a_promotion():
    """20 years; the whole 200 are for the program."""
    assert count_promoted(BASE, level_of, 0.0, 250, 20, seed=0) <= 3


def test_without_spending_nearly_every_year_sees_one():
    """The nights are no easier than they should be."""
    assert count_promoted(BASE, SEQUENCES["no spending"], 0.0, 250, 20, seed=0) >= 18


@pytest.mark.parametrize("case", [name for name in CASES if name != "base"])
def test_the_gain_is_in_standard_errors_in_every_case(case: str):
    """In one night, at 5%, two standard errors are seen every other time, by two judges every third."""
    count = count_promoted(CASES[case], lambda k, rate: rate, GAIN, 1, 200, seed=0)
    assert 45 <= count <= 140


def test_both_tables(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.promotion.YEAR", 3)
    main(["--repetitions", "2", "--no-write"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == list(measure(2, 0))
    text = part(rows)
    assert all(f"| {case} |" in text for case in CASES)
    assert all(f"`{sequence}`" in text for sequence in SEQUENCES)

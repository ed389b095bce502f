from dataclasses import replace

import numpy as np
import pytest

from benchmarks import coverage, readme
from rlhf.evaluation.statistics import mean_interval, paired_bootstrap, share_interval

CASES = {case.name: case for case in coverage.cases()}
REPETITIONS = 400
SLACK = 0.022
"""Two standard errors of a coverage of 95% that 400 repetitions measure."""


def covered(case, prompts=30, most_rows=coverage.MOST_ROWS):
    return coverage.measure(case, prompts, most_rows, REPETITIONS)[0]


@pytest.mark.parametrize(
    "name",
    [
        "share 0.8, correlation 0.2",
        "win rate of 30.0% wins and 50% ties, correlation 0.3",
        "mean of normal values, correlation 0.3",
        "paired three-valued differences, correlation 0.3",
        "mean of three shares, correlation 0.3",
        "a share less another, correlation 0.3",
        "temperature of margins 2 times as large as they should be, correlation 0.3",
    ],
)
def test_intervals_by_prompt_hold_the_truth(name):
    low, high = coverage.TWO_SIDED
    assert low - SLACK <= covered(CASES[name]) <= high + SLACK


@pytest.mark.parametrize("true", [1, 2])
def test_the_calibration_errors_interval_holds_at_least_as_often(true):
    case = CASES[f"calibration error of margins {true} times as large as they should be, correlation 0"]
    assert coverage.measure(case, 100, 1, 100)[0] >= 0.95 - 2 * SLACK


def test_the_gain_of_more_labels_is_in_its_interval():
    case = CASES["gain of a steep learning curve, correlation 0.3"]
    assert coverage.measure(case, 100, coverage.MOST_ROWS, 60)[0] >= 0.88


@pytest.mark.parametrize("most_rows", [1, 10])
def test_the_interval_of_a_fitted_peak_holds_it(most_rows):
    low, high = coverage.TWO_SIDED
    held = coverage.measure(CASES["peak of a fitted score"], 100, most_rows, 200)[0]
    assert low - 0.031 <= held <= high + 0.031  # two standard errors of 200 repetitions


def test_intervals_by_row_do_not():
    """The fault that the prompt as the unit mends: rows of one prompt taken for independent witnesses."""
    by_row = {
        "share 0.8, correlation 0.6": lambda values, keys: share_interval(values),
        "mean of normal values, correlation 0.3": lambda values, keys: mean_interval(values),
        "paired normal differences, correlation 0.3": lambda values, keys: paired_bootstrap(values, 200, 0),
    }
    for name, interval in by_row.items():
        assert covered(replace(CASES[name], interval=interval)) < 0.75


@pytest.mark.parametrize("name", ["share 0.8, correlation 0.6", "win rate of 30.0% wins and 50% ties, correlation 0.3"])
def test_what_is_drawn_has_the_stated_mean_and_correlation(name):
    case, keys = CASES[name], np.repeat(np.arange(20_000), 2)
    rows = case.draw(np.random.default_rng(0), keys).reshape(-1, 2)
    assert rows.mean() == pytest.approx(case.truth, abs=0.01)
    stated = float(name.rsplit(" ", 1)[1])
    assert np.corrcoef(rows.T)[0, 1] == pytest.approx(stated, abs=0.03)


def test_the_table_marks_what_misses_its_target():
    def row(prompts, found, kind="share", most_rows=30):
        return {
            "case": kind, "kind": kind, "prompts": prompts, "most_rows": most_rows, "coverage": found,
            "repetitions": 2000, "when": "now", "commit": "abc",
        }  # fmt: skip

    rows = [row(10, 0.9), row(30, 0.95), row(100, 0.92), row(500, 0.975), row(30, 0.99, "bound", 1)]
    text = coverage.part(rows)
    assert "| share | 1 to 30 | 90.0% | 95.0% | **92.0%** | **97.5%** |" in text
    assert "| bound | 1 |  | 99.0% |  |  |" in text
    assert "2 of 4 cells from 30 prompts on miss" in text
    assert "coverage: begin" in readme.README.read_text(encoding="utf-8")

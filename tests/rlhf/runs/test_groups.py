"""What a recipe comes to over several seeds."""

import pytest

from rlhf.config.pipeline import PipelineConfig
from rlhf.metrics import HEADLINES, METRICS, check_declared
from rlhf.references import GroupReport, SeedReport
from rlhf.runs.groups import SeedsFailedError, as_markdown, group_key, group_metrics, over_seeds

GAIN = "evaluation/gold_gain"


def seed(number: int, gain: float, **metrics: float) -> SeedReport:
    found = {GAIN: gain, f"{GAIN}_low": gain - 0.02, f"{GAIN}_high": gain + 0.02, "policy/entropy": 1.0, **metrics}
    return SeedReport(seed=number, run_id=f"{number:032x}", metrics=found)


def group(*seeds: SeedReport) -> GroupReport:
    finished = [one for one in seeds if one.error is None]
    return GroupReport(run_id="g", recipe="demo", seeds=seeds, statistics=over_seeds(finished), notes=("So_so",))


def test_mean_deviation_and_t_interval():
    """By hand: 0.329, 0.322, 0.354 have mean 0.335 and squared deviations of 0.000566; t(2, 97.5%) is 4.302653."""
    over = over_seeds([seed(7, 0.329), seed(11, 0.322), seed(23, 0.354)])[GAIN]
    assert over.num_seeds == 3
    assert over.mean == pytest.approx(0.335)
    assert over.std == pytest.approx((0.000566 / 2) ** 0.5)
    half = 4.302653 * (0.000566 / 2 / 3) ** 0.5
    assert (over.low, over.high) == pytest.approx((0.335 - half, 0.335 + half))


def test_one_seed_has_no_interval():
    over = over_seeds([seed(7, 0.3)])[GAIN]
    assert (over.num_seeds, over.mean, over.std, over.low, over.high) == (1, 0.3, None, None, None)
    assert over_seeds([]) == {}


def test_a_figure_that_not_every_seed_has_counts_those_that_do():
    over = over_seeds([seed(1, 0.1), seed(2, 0.2, **{"evaluation/kl": 1.0}), seed(3, 0.3, **{"evaluation/kl": 3.0})])
    assert (over["evaluation/kl"].num_seeds, over["evaluation/kl"].mean) == (2, 2.0)
    assert set(over) == {GAIN, "evaluation/kl"}


def test_headlines_are_what_people_compare_by_and_what_has_an_interval():
    assert {GAIN, "evaluation/win_rate", "evaluation/kl", "evaluation/policy_hedging_hard"} <= set(HEADLINES)
    assert {"evaluation/selection_score_gain", "reward_audit/accuracy", "policy/chosen_update"} <= set(HEADLINES)
    assert not any(name.endswith(("_low", "_high", "seconds")) for name in HEADLINES)


def test_the_run_of_a_group_bears_declared_metrics_only():
    metrics = group_metrics(group(seed(7, 0.25), seed(8, 0.75), SeedReport(seed=9, run_id=None, error="no")))
    check_declared(metrics)
    assert metrics["group/num_seeds"] == 2.0
    assert metrics["group/num_failed"] == 1.0
    assert metrics[f"group/{GAIN}"] == 0.5
    assert metrics[f"group/{GAIN}_std"] == pytest.approx(0.125**0.5)
    assert metrics[f"group/{GAIN}_low"] == pytest.approx(0.5 - 12.706205 * 0.25)
    assert METRICS[f"group/{GAIN}"].unit == "gold"
    assert group_metrics(group(seed(7, 0.25))) == {
        "group/num_seeds": 1.0,
        "group/num_failed": 0.0,
        f"group/{GAIN}": 0.25,
    }


def test_the_page_has_both_intervals_and_what_failed():
    page = as_markdown(group(seed(7, 0.25), seed(8, 0.75), SeedReport(seed=9, run_id=None, error="data | gone")))
    lines = page.splitlines()
    assert lines[0] == "# demo with 3 seeds"
    assert "**So\\_so**" in lines
    assert "| 9 | failed |  | data \\| gone |" in lines
    assert f"| 7 | finished | `{7:032x}` |  |" in lines
    (row,) = [line for line in lines if line.startswith(f"| `{GAIN}`")]
    assert row == f"| `{GAIN}` | gold | 0.5 | -2.677 to 3.677 | 0.3536 | 0.25 (0.23 to 0.27) | 0.75 (0.73 to 0.77) |"
    assert "| seed 7 | seed 8 |" in page
    assert "seed 9 |" not in page


def test_a_page_where_no_seed_finished():
    page = as_markdown(group(SeedReport(seed=9, run_id="r", error="gone")))
    assert "| 9 | failed | `r` | gone |" in page
    assert "| metric |" not in page


def test_what_tells_a_group_from_another():
    config = PipelineConfig()
    key = group_key(config, (1, 2))
    assert key == group_key(config.model_copy(update={"seed": 5}), (2, 1))
    assert key != group_key(config, (1, 3))
    assert key != group_key(config.model_copy(update={"name": "other"}), (1, 2))


def test_the_error_names_the_seeds_and_what_to_do():
    error = SeedsFailedError(group(seed(7, 0.25), SeedReport(seed=9, run_id=None, error="gone")), 2)
    assert error.exit_code == 2
    assert str(error).startswith("1 of 2 seeds failed, and the summary is without them (seed 9: gone); mend that")
    alike = [SeedReport(seed=number, run_id=None, error="gone") for number in (1, 2)]
    other = SeedReport(seed=3, run_id=None, error="late")
    assert "3 of 3 seeds failed, and the summary is without them (seed 1, 2: gone; seed 3: late)" in str(
        SeedsFailedError(group(*alike, other), 1)
    )

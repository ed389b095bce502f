"""Changes of figures between two policies, paired by prompt."""

import math

import numpy as np
import pytest

from rlhf.evaluation.paired import (
    PairedFigure,
    Resampling,
    change_of_means,
    paired_differences,
    paired_shares,
    prompts_for_change,
    resampled,
    with_spread,
)
from rlhf.evaluation.statistics import Estimate, share_interval, win_rate
from rlhf.planning.recommend import discernible_win_rate

RESAMPLING = Resampling(500, seed=1)
KEYS = list(range(40))


def flags(num: int) -> np.ndarray:
    return np.array([1.0] * num + [0.0] * (40 - num))


def test_shares_and_their_change():
    figure = paired_shares(flags(30), flags(10), KEYS)
    assert figure.policy == share_interval(flags(30))
    assert figure.baseline == share_interval(flags(10))
    assert figure.change.value == pytest.approx(0.5)
    # A share that rose on 20 of 40 prompts and fell on none is Tango's win rate of 20 wins and 20 ties, twice less 1.
    won = win_rate(flags(30), flags(10)).rate
    assert (figure.change.low, figure.change.high) == pytest.approx((2 * won.low - 1, 2 * won.high - 1))
    turned = paired_shares(flags(10), flags(30), KEYS).change
    assert (turned.low, turned.high) == pytest.approx((-figure.change.high, -figure.change.low))


def test_equal_outcomes_are_no_change_that_is_known_exactly():
    few, many = paired_shares([1.0] * 5, [1.0] * 5, KEYS[:5]).change, paired_shares(flags(9), flags(9), KEYS).change
    assert few.value == many.value == 0
    assert few.high - few.low > many.high - many.low > 0.05


def test_rows_of_one_prompt_are_one_witness():
    alone = paired_shares(flags(30), flags(10), KEYS).change
    together = paired_shares(flags(30), flags(10), [key // 4 for key in KEYS]).change
    assert together.value == alone.value
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_differences_without_spread_get_that_of_both_sides():
    same = np.zeros(40)
    figure = paired_differences(same, same, KEYS, RESAMPLING)
    reach = math.hypot(figure.policy.value - figure.policy.low, figure.baseline.high - figure.baseline.value)
    assert figure.change == Estimate(0.0, pytest.approx(-reach), pytest.approx(reach))
    assert with_spread(Estimate(0.5, 0.4, 0.6), figure.policy, figure.baseline) == Estimate(0.5, 0.4, 0.6)


def test_few_prompts_that_changed_do_not_tell_how_rare_they_are():
    def change(num: int) -> Estimate:
        return paired_differences(flags(num), flags(0), KEYS, RESAMPLING).change

    assert change(1).low < 0 < change(3).high - 0.15
    assert change(4).low > 0


def test_one_prompt_tells_no_change_of_means():
    assert change_of_means(np.array([0.0, 1.0]), ["a", "a"], RESAMPLING) is None
    assert paired_differences(np.ones(2), np.zeros(2), ["a", "a"], RESAMPLING).change is None


def test_resampling_a_mean_is_the_bootstrap_of_a_mean():
    values = np.random.default_rng(0).normal(1.0, 2.0, 300)
    keys = [row // 3 for row in range(300)]
    whole = resampled(lambda weights: weights @ values / weights.sum(axis=1), keys, Resampling(4000, 1))
    known = change_of_means(values, keys, Resampling(4000, 2))
    assert whole.value == pytest.approx(values.mean())
    assert (whole.low, whole.high) == pytest.approx((known.low, known.high), abs=0.03)


def test_a_figure_that_many_resamples_lack_is_none():
    def rare(weights: np.ndarray) -> np.ndarray:
        return np.where(weights[:, 0] > 0, 1.0, np.nan)

    assert resampled(rare, KEYS, RESAMPLING) is None
    assert resampled(lambda weights: np.full(len(weights), np.nan), KEYS, RESAMPLING) is None
    assert resampled(lambda weights: weights.sum(axis=1), ["a"] * 3, RESAMPLING) is None


def test_prompts_for_a_change():
    figure = {"value": 0.1, "low": -0.1, "high": 0.25}
    assert prompts_for_change(figure, 100, 0.1) == 400
    assert prompts_for_change(figure, 100, 0.2) is None
    # The same rule as that of the win rate (1 + d) / 2, of which all prompts may be decided.
    reach = 2 * discernible_win_rate(50) - 1
    needed = prompts_for_change({"value": 0.0, "low": -reach, "high": reach}, 50, 0.1)
    assert 2 * discernible_win_rate(needed) - 1 <= 0.1 < 2 * discernible_win_rate(needed - 1) - 1


def test_figures_for_json():
    assert PairedFigure(Estimate(1.0, 0.5, 1.0), None, None).as_dict() == {
        "policy": {"value": 1.0, "low": 0.5, "high": 1.0},
        "baseline": None,
        "change": None,
    }

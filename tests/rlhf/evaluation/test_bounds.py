"""Bounds by hand, against scipy, and by how often they hold."""

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest, ttest_1samp

from rlhf.errors import DataError
from rlhf.evaluation.bounds import (
    any_by_prompt,
    by_prompt,
    level_of,
    mean_bound,
    prompts_needed,
    ratio_upper_bound,
    share_upper_bound,
    trials_needed,
    win_rate_lower_bound,
)


def test_rows_of_one_prompt_are_one():
    prompts = ["b", "a", "b", "c"]
    assert by_prompt([1.0, 5.0, 3.0, 0.0], prompts).tolist() == [2.0, 5.0, 0.0]
    assert any_by_prompt([False, False, True, False], prompts).tolist() == [True, False, False]


class TestShares:
    def test_none_of_299_is_at_most_one_in_a_hundred_and_none_of_64_is_not(self):
        assert share_upper_bound(0, 64) == pytest.approx(1 - 0.05 ** (1 / 64)) == pytest.approx(0.0457, abs=1e-4)
        assert share_upper_bound(0, 298) > 0.01 >= share_upper_bound(0, 299)

    @pytest.mark.parametrize(("count", "trials"), [(0, 5), (1, 30), (7, 40), (39, 40), (40, 40)])
    def test_against_scipy(self, count: int, trials: int):
        exact = binomtest(count, trials, alternative="less").proportion_ci(0.95, method="exact")
        assert share_upper_bound(count, trials) == pytest.approx(exact.high)

    @pytest.mark.parametrize("true", [0.01, 0.05, 0.3])
    @pytest.mark.parametrize("trials", [30, 300])
    def test_it_covers_in_at_least_95_of_100(self, true: float, trials: int):
        counts = np.arange(trials + 1)
        bounds = np.array([share_upper_bound(int(count), trials) for count in counts])
        assert binom.pmf(counts, trials, true)[bounds >= true].sum() >= 0.95

    def test_no_prompts(self):
        with pytest.raises(DataError, match="gate split is empty"):
            share_upper_bound(0, 0)

    @pytest.mark.parametrize(("limit", "count", "needed"), [(0.01, 0, 299), (0.05, 0, 59), (0.01, 2, 628), (1.0, 3, 3)])
    def test_the_fewest_prompts_that_a_limit_needs(self, limit: float, count: int, needed: int):
        assert trials_needed(limit, count) == needed
        if limit < 1:
            assert share_upper_bound(count, needed) <= limit < share_upper_bound(count, needed - 1)


class TestMeans:
    def test_a_bound_is_where_the_t_test_rejects(self):
        sample = np.random.default_rng(0).normal(0.3, 1.0, size=40)
        for level in (0.05, 0.001):
            low, high = (mean_bound(sample, upper=upper, level=level) for upper in (False, True))
            assert ttest_1samp(sample, low, alternative="greater").pvalue == pytest.approx(level)
            assert ttest_1samp(sample, high, alternative="less").pvalue == pytest.approx(level)

    def test_a_sample_whose_signs_show_nothing_has_no_bound(self):
        assert prompts_needed(0.05) == 5
        assert mean_bound([1.0] * 4, upper=False) == -math.inf
        assert mean_bound([1.0] * 4, upper=True) == math.inf
        assert mean_bound([1.0] * 5, upper=False) == 1.0

    def test_a_ratio_of_means(self):
        lengths = np.random.default_rng(0).integers(5, 15, size=200)
        assert ratio_upper_bound(lengths, lengths) == 1.0
        assert ratio_upper_bound([3.0, 3.0], [0.0, 0.0]) == 3.0
        bound = ratio_upper_bound(lengths, np.random.default_rng(1).integers(5, 15, size=200))
        assert 1.0 < bound < 1.15
        assert bound == ratio_upper_bound(lengths, np.random.default_rng(1).integers(5, 15, size=200))


class TestWinRates:
    def test_at_its_limits(self):
        assert win_rate_lower_bound([0.5] * 50) == pytest.approx(0.5, abs=0.011)
        assert 0.9 < win_rate_lower_bound([1.0] * 50) < 1.0
        assert win_rate_lower_bound([0.0] * 50) == 0.0
        assert win_rate_lower_bound([1.0] * 4) == 0.0

    @pytest.mark.parametrize("ties", [0.0, 0.3, 0.7])
    @pytest.mark.parametrize("level", [0.05, 0.005])
    def test_what_is_as_good_wins_no_more_often_than_the_level(self, ties: float, level: float):
        rng = np.random.default_rng(0)
        decided = rng.binomial(200, 1 - ties, size=40_000)
        won = rng.binomial(decided, 0.5)
        # The bound hangs on the numbers of wins and ties alone.
        pairs, counts = np.unique(np.stack([won, decided]), axis=1, return_counts=True)
        passed = sum(
            count
            for (wins, known), count in zip(pairs.T.tolist(), counts.tolist(), strict=True)
            if wins > known / 2 and win_rate_lower_bound(_outcomes(wins, known), level) > 0.5
        )
        assert 0.4 * level < passed / 40_000 < 1.1 * level


def _outcomes(wins: int, decided: int) -> list[float]:
    return [1.0] * wins + [0.0] * (decided - wins) + [0.5] * (200 - decided)


def test_all_comparisons_together_take_the_rate():
    levels = [level_of(number, 0.05) for number in range(1, 5001)]
    assert levels[:3] == pytest.approx([0.05 / 3, 0.05 / 6, 0.05 / 10])
    # After K of them the share 2 / (K + 2) is left.
    assert sum(levels) == pytest.approx(0.05 * 5000 / 5002)

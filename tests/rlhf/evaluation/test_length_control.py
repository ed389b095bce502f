"""Win rates at equal length: length is taken out where it decides, and changes nothing where it does not."""

import numpy as np
import pytest

from rlhf.evaluation.length_control import length_controlled_win_rate
from rlhf.evaluation.statistics import win_rate

N = 600


def controlled(won, lengths, others, prompts=None, num_resamples=300):
    prompts = prompts or [str(row) for row in range(len(won))]
    return length_controlled_win_rate(won, lengths, others, prompts, num_resamples, seed=1)


def drawn(level, slope, seed=0):
    """Outcomes of a known logistic function of a level and the difference in length."""
    rng = np.random.default_rng(seed)
    others = rng.integers(10, 60, N)
    lengths = others + rng.normal(15, 20, N).round()
    difference = lengths - others
    chance = 1 / (1 + np.exp(-(level + slope * np.tanh(difference / difference.std()))))
    return (rng.random(N) < chance).astype(float), lengths, others


@pytest.mark.parametrize("level", [0.0, 0.8, -0.8])
def test_it_finds_the_rate_that_the_outcomes_were_drawn_with(level):
    estimates = [controlled(*drawn(level, 2.0, seed)) for seed in range(20)]
    truth = 1 / (1 + np.exp(-level))
    assert np.mean([one.value for one in estimates]) == pytest.approx(truth, abs=0.015)
    held = sum(one.low <= truth <= one.high for one in estimates)
    assert held >= 17, "95% intervals, 20 of them"


def test_one_that_wins_by_length_alone_does_not_win():
    won, lengths, others = drawn(0.0, 3.0)
    assert win_rate(won, np.full(N, 0.5)).rate.low > 0.6
    found = controlled(won, lengths, others)
    assert found.low < 0.5 < found.high


def test_without_a_difference_in_length_it_is_the_win_rate():
    won = np.array([1.0] * 420 + [0.5] * 60 + [0.0] * 120)
    found = controlled(won, np.full(N, 20), np.full(N, 20))
    assert found.value == pytest.approx(won.mean(), abs=2e-3)
    plain = win_rate(won, np.full(N, 0.5)).rate
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.015)


def test_one_that_always_wins_has_a_rate_near_one():
    found = controlled(np.ones(50), np.arange(50) + 30, np.full(50, 20))
    assert 0.9 < found.low <= found.value <= found.high < 1


def test_rows_of_a_prompt_are_no_independent_witnesses():
    won, lengths, others = drawn(0.5, 1.0)
    alone = controlled(won, lengths, others)
    same = [np.repeat(values[:60], 10) for values in (won, lengths, others)]
    together = controlled(*same, prompts=[str(row // 10) for row in range(N)])
    assert together.high - together.low > 2 * (alone.high - alone.low)

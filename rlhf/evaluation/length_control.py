"""Win rate of responses that are as long as those they are compared with."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf.evaluation.intervals import Prompts, group_by_prompt
from rlhf.evaluation.statistics import Estimate

_LENGTH_PRIOR = 3.0
"""Standard deviation that the effect of length has beforehand, in logits per standard deviation of the differences."""
_LEVEL_PRIOR = 6.0
"""The same of the level: a side that wins always has a finite one, of a win rate of nearly 1."""
_STEPS = 25
_SMALL_STEP = 1e-8
_VALUES_AT_ONCE = 4_000_000


def length_controlled_win_rate(
    outcomes: ArrayLike,
    lengths: ArrayLike,
    other_lengths: ArrayLike,
    prompts: Prompts,
    num_resamples: int,
    seed: int,
) -> Estimate:
    """How often the first of two responses would win if both were of the same length.

    The win is a logistic function of a level and of the difference in length, which enters through tanh, so that one
    far longer response has no more weight than a longer one. The length's effect is then set to 0. Its interval is that
    of a bootstrap over prompts, each with all its rows, with a fit for every sample.

    Args:
        outcomes: 1 where the first won, 0 where it lost, 1/2 where neither did, [N].
        lengths: of the first responses, [N].
        other_lengths: of those that they are compared with, [N].
        prompts: the prompt of each row, [N].
        num_resamples: samples of prompts.
        seed: of the samples.

    Source:
        Dubois et al., "Length-controlled AlpacaEval", 2404.04475; without the term of the prompt's difficulty, which
        takes the answers of more than two models.
    """
    won = np.asarray(outcomes, dtype=np.float64)
    differences = np.asarray(lengths, dtype=np.float64) - np.asarray(other_lengths, dtype=np.float64)
    longer = np.tanh(differences / (differences.std() or 1.0))
    grouped = group_by_prompt(won, prompts)
    rate = float(_level_rates(won, longer, np.ones((1, len(won))))[0])
    rng, num_prompts = np.random.default_rng(seed), len(grouped.counts)
    rates: list[NDArray[np.float64]] = []
    for start in range(0, num_resamples, max(1, _VALUES_AT_ONCE // len(won))):
        size = min(max(1, _VALUES_AT_ONCE // len(won)), num_resamples - start)
        drawn = rng.multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), size=size)
        rates.append(_level_rates(won, longer, drawn[:, grouped.which].astype(np.float64)))
    low, high = np.quantile(np.concatenate(rates), [0.025, 0.975])
    return Estimate(rate, min(rate, float(low)), max(rate, float(high)))


def _level_rates(won: NDArray[np.float64], longer: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[Any]:
    """The win rate at equal lengths, [S], by the fit of each of S weightings of the N rows, by Newton's method.

    Args:
        won: outcomes, [N].
        longer: by how much the first response is longer, [N].
        weights: [S, N].
    """
    level, slope = np.zeros((2, len(weights)))
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-(level[:, None] + slope[:, None] * longer)))
        error, curvature = weights * (won - chance), weights * chance * (1 - chance)
        gradient = np.stack([error.sum(1) - level / _LEVEL_PRIOR**2, error @ longer - slope / _LENGTH_PRIOR**2])
        a = curvature.sum(1) + 1 / _LEVEL_PRIOR**2
        b, c = curvature @ longer, curvature @ longer**2 + 1 / _LENGTH_PRIOR**2
        steps = np.stack([c * gradient[0] - b * gradient[1], a * gradient[1] - b * gradient[0]]) / (a * c - b * b)
        # Far from the fit a whole step may lead further away.
        steps = np.clip(steps, -2.0, 2.0)
        level, slope = level + steps[0], slope + steps[1]
        if np.abs(steps).max() < _SMALL_STEP:
            break
    return np.asarray(1 / (1 + np.exp(-level)))

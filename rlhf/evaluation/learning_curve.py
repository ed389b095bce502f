"""Whether more labels would help: accuracy by the number of training pairs, extrapolated to twice as many."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf.evaluation.intervals import Prompts
from rlhf.evaluation.statistics import Estimate, resampled_means, share_interval

SHARES = (0.125, 0.25, 0.5, 1.0)
"""Shares of the training pairs that the reward models of a curve learn from."""
NUM_RESAMPLES = 2000
LITTLE = 0.01
"""A gain in accuracy of less than this is little for twice the labels."""
_EXPONENTS = np.linspace(0.05, 2.0, 79)


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy of reward models that differ in the number of their training pairs.

    Attributes:
        num_pairs: that each was trained on, rising, [K].
        accuracy: of each on the held-out pairs, [K].
        doubled: accuracy that the power law says for twice the most pairs.
        gain: that less what it says for the most pairs.
        answer: to whether more labels would help.
    """

    num_pairs: tuple[int, ...]
    accuracy: tuple[Estimate, ...]
    doubled: Estimate
    gain: Estimate
    answer: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def learning_curve(
    num_pairs: Sequence[int],
    outcomes: Sequence[ArrayLike],
    seed: int,
    prompts: Prompts = None,
    num_resamples: int = NUM_RESAMPLES,
) -> LearningCurve:
    """Extrapolate the accuracy of reward models by the power law error(n) = a + b n^-c.

    The law is fitted to the errors by least squares, in which a point with more pairs weighs more, with a of at least 0
    and c from 0.05 to 2: so the next doubling brings from a quarter to all of what the law says of the last one. The
    interval is that of a bootstrap over held-out prompts with a fit for each resample. Another draw of training pairs,
    or another seed, is not in it: there is one model of each size.

    Args:
        num_pairs: training pairs of each model, rising, [K].
        outcomes: of each model on the held-out pairs, 1 where it is right, 1/2 a tie, 0 else, [K] of [N].
        seed: of the resamples.
        prompts: the prompt of each held-out pair, [N].
        num_resamples: samples of prompts.

    Raises:
        DataError: fewer than two prompts.

    Source:
        Figueroa et al., "Predicting sample size required for classification performance", BMC Medical Informatics and
        Decision Making 12 (2012); expanded percentiles as in `paired_bootstrap`.
    """
    sizes = np.asarray(num_pairs, dtype=np.float64) / num_pairs[-1]
    wrong = 1 - np.asarray(outcomes, dtype=np.float64)
    errors, grouped = resampled_means(list(wrong), num_resamples, seed, prompts)
    estimate, resampled = extrapolate(sizes, wrong.mean(axis=1)[None])[:, 0], extrapolate(sizes, errors)
    low, high = np.quantile(resampled, [grouped.tail, 1 - grouped.tail], axis=1)
    doubled, gain = (
        Estimate(float(value), float(min(value, start)), float(max(value, end)))
        for value, start, end in zip(estimate, low, high, strict=True)
    )
    accuracy = tuple(share_interval(right, prompts) for right in outcomes)
    return LearningCurve(tuple(num_pairs), accuracy, doubled, gain, _answer(num_pairs[-1], doubled, gain))


def extrapolate(sizes: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Accuracy at twice the largest size, and its gain over that at the largest size, by the law's fit, [2, S].

    Args:
        sizes: of the training data, as shares of the largest, [K].
        errors: of S samples at each size, [S, K].
    """
    weights = np.arange(1, len(sizes) + 1) / len(sizes)
    best = np.full(len(errors), np.inf)
    found = np.zeros((2, len(errors)))
    for exponent in _EXPONENTS:
        shape = sizes**-exponent
        centred = shape - np.average(shape, weights=weights)
        slope = errors @ (weights * centred) / (weights @ centred**2)
        floor = np.average(errors, axis=1, weights=weights) - slope * np.average(shape, weights=weights)
        # Without a floor below 0: the best law through 0.
        slope = np.where(floor < 0, errors @ (weights * shape) / (weights @ shape**2), slope)
        floor = np.maximum(floor, 0.0)
        loss = ((errors - floor[:, None] - slope[:, None] * shape) ** 2) @ weights
        doubled = 1 - floor - slope * 2**-exponent
        laws = np.stack([doubled, slope * (1 - 2**-exponent)])
        found = np.where(loss < best, laws, found)
        best = np.minimum(loss, best)
    return found


def _answer(num_pairs: int, doubled: Estimate, gain: Estimate) -> str:
    """One sentence for the card."""
    points = [f"{100 * end:+.1f}" for end in (gain.value, gain.low, gain.high)]
    change = f"a change of {points[0]} points ({points[1]} to {points[2]})"
    at = f"with twice the {num_pairs:,} pairs accuracy would be {doubled.value:.1%}, {change}"
    if gain.low > LITTLE:
        return f"More labels would help: {at}."
    if gain.high < LITTLE:
        return f"More labels like these would help little: {at}."
    if gain.low > 0:
        return f"More labels would help, perhaps little: {at}."
    return f"Whether more labels would help cannot be told from this curve: {at}."

"""Figures with their uncertainty: proportions, paired differences, calibration, correlation, diversity.

Imports numpy only at the top; scipy, which takes a second, where it is needed.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf.errors import DataError

_CONFIDENCE = 0.95
_RESAMPLED_VALUES_AT_ONCE = 2_000_000
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% confidence interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class WinRate:
    """How often the first of two is the better one.

    Attributes:
        wins: rows in which the first is greater.
        ties: rows in which both are equal.
        losses: rows in which the second is greater.
        rate: wins and half the ties, as a share of all rows.
    """

    wins: int
    ties: int
    losses: int
    rate: Estimate

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ReliabilityBin:
    """The predictions whose confidence lies between `low` and `high`.

    Attributes:
        low: lower edge.
        high: upper edge, exclusive but for the last bin.
        count: predictions in it, never 0.
        confidence: their mean confidence.
        accuracy: share of them that came true.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: Estimate


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy lie apart.

    Attributes:
        expected_calibration_error: their distance, averaged over the predictions.
        bins: those that hold a prediction, by rising confidence.
    """

    expected_calibration_error: float
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class Correlation:
    """Of two samples; None where one of them is constant, so that there is none.

    Attributes:
        pearson: linear.
        spearman: of ranks.
    """

    pearson: float | None
    spearman: float | None


def wilson_interval(successes: float, trials: int) -> Estimate:
    """A proportion with its score interval, which stays inside [0, 1] and holds for shares near 0 and 1.

    Args:
        successes: may be fractional: a tie counts half. The interval is then wider than it need be, since outcomes of
            one half vary less than those of 0 and 1.
        trials: at least 1.

    Raises:
        DataError: there is no trial.

    Source:
        Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if trials < 1:
        raise DataError("a proportion of no rows at all was asked for; the split is empty, give it more data")
    z = NormalDist().inv_cdf(0.5 + _CONFIDENCE / 2)
    share = successes / trials
    spread = 1 + z**2 / trials
    centre = (share + z**2 / (2 * trials)) / spread
    half = z / spread * (share * (1 - share) / trials + z**2 / (4 * trials**2)) ** 0.5
    return Estimate(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def mean_interval(values: ArrayLike) -> Estimate:
    """A mean with its Student interval; of paired differences, this is the paired t interval.

    Raises:
        DataError: fewer than two values, whose spread cannot be told.

    Source:
        Student, "The probable error of a mean", Biometrika 6 (1908).
    """
    from scipy.stats import t

    sample = _sample(values)
    mean = float(sample.mean())
    half = float(t.ppf(0.5 + _CONFIDENCE / 2, len(sample) - 1) * sample.std(ddof=1) / len(sample) ** 0.5)
    return Estimate(mean, mean - half, mean + half)


def paired_bootstrap(differences: ArrayLike, num_resamples: int, seed: int) -> Estimate:
    """The mean of paired differences with its percentile bootstrap interval. Pairs are resampled, not their members.

    Args:
        differences: one a pair, such as the policy's gold reward less the baseline's on the same prompt, [N].
        num_resamples: samples of N pairs drawn with replacement.
        seed: of the draw.

    Raises:
        DataError: fewer than two differences.

    Source:
        Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979); paired, as Koehn,
        "Statistical significance tests for machine translation evaluation", EMNLP 2004.
    """
    sample = _sample(differences)
    rng = np.random.default_rng(seed)
    at_once = max(1, _RESAMPLED_VALUES_AT_ONCE // len(sample))
    means = [
        sample[rng.integers(len(sample), size=(min(at_once, num_resamples - start), len(sample)))].mean(axis=1)
        for start in range(0, num_resamples, at_once)
    ]
    low, high = np.quantile(np.concatenate(means), [0.5 - _CONFIDENCE / 2, 0.5 + _CONFIDENCE / 2])
    return Estimate(float(sample.mean()), float(low), float(high))


def win_rate(first: ArrayLike, second: ArrayLike) -> WinRate:
    """Share of rows in which the first is greater, ties counting half, with its Wilson interval.

    With the scores of chosen and rejected responses this is a reward model's accuracy, with their lengths that of
    "the longer one wins".

    Args:
        first: one value a row, [N].
        second: the value to compare it with, [N].
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    assert a.shape == b.shape, f"{a.shape} against {b.shape}"
    wins, losses = int((a > b).sum()), int((a < b).sum())
    ties = len(a) - wins - losses
    return WinRate(wins, ties, losses, wilson_interval(wins + ties / 2, len(a)))


def calibration(probabilities: ArrayLike, num_bins: int) -> Calibration:
    """Calibration of a reward model that gave these probabilities to what the rater chose.

    Which of two responses stands first says nothing, so a probability of "chosen wins" is not compared with an outcome
    that is always 1. The prediction is the response that the model prefers: its confidence is max(p, 1 - p), between
    0.5 and 1, and it is right where p is above 0.5. At exactly 0.5 it counts as half right.

    Args:
        probabilities: P(chosen wins) by the model, [N], N at least 1.
        num_bins: of equal width over [0.5, 1].

    Source:
        Guo et al., "On calibration of modern neural networks", 1706.04599, equation 3.
    """
    p = np.asarray(probabilities, dtype=float)
    confidence = np.maximum(p, 1 - p)
    right = np.where(p == 0.5, 0.5, p > 0.5)
    edges = np.linspace(0.5, 1.0, num_bins + 1)
    which = np.clip(np.digitize(confidence, edges) - 1, 0, num_bins - 1)
    bins = tuple(_bin(edges[i : i + 2], confidence[which == i], right[which == i]) for i in np.unique(which))
    gaps = sum(one.count * abs(one.accuracy.value - one.confidence) for one in bins)
    return Calibration(gaps / len(p), bins)


def correlation(first: ArrayLike, second: ArrayLike) -> Correlation:
    """Pearson's and Spearman's correlation of two samples of the same rows."""
    from scipy.stats import pearsonr, spearmanr

    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Correlation(None, None)
    return Correlation(float(pearsonr(a, b)[0]), float(spearmanr(a, b)[0]))


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Different n-grams of word tokens as a share of all, over all texts together; 0 where there is no n-gram.

    A word token is a run of letters and digits, or one other character that is no space. The figure falls as texts
    are added: compare it between samples of the same size only.

    Source:
        Li et al., "A diversity-promoting objective function for neural conversation models", 1510.03055.
    """
    ngrams: list[tuple[str, ...]] = []
    for text in texts:
        words = _WORD.findall(text)
        ngrams += [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def quantile_groups(values: Sequence[float] | NDArray[Any], num_groups: int) -> list[NDArray[np.intp]]:
    """Row numbers in up to `num_groups` groups of like size, by rising value; rows of equal value keep their order."""
    order = np.argsort(np.asarray(values), kind="stable")
    return [group for group in np.array_split(order, num_groups) if len(group)]


def _sample(values: ArrayLike) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) < 2:
        raise DataError(f"an interval needs at least 2 rows, and there are {sample.size}; give the split more data")
    return sample


def _bin(edges: NDArray[Any], confidence: NDArray[Any], right: NDArray[Any]) -> ReliabilityBin:
    accuracy = wilson_interval(float(right.sum()), len(right))
    return ReliabilityBin(float(edges[0]), float(edges[1]), len(right), float(confidence.mean()), accuracy)

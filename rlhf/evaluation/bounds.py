"""One-sided bounds of what gates look at, and how much of the risk of a false promotion each comparison may take.

The unit is the prompt everywhere: several rows of one prompt are averaged, or count as unsafe where one of them is.
Imports numpy only at the top; scipy, which takes a second, where it is needed.
"""

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf.errors import DataError
from rlhf.evaluation.intervals import prompt_numbers

CONFIDENCE = 0.95
"""Of a one-sided bound, where no other level is given."""
_NUM_RESAMPLES = 2000
_MOST_TRIALS = 10_000_000


def by_prompt(values: ArrayLike, prompts: Sequence[Hashable]) -> NDArray[np.float64]:
    """Means of each prompt's rows, in the order in which prompts come first.

    Args:
        values: one per row, [N].
        prompts: which prompt each row answers, [N].
    """
    rows = np.asarray(values, dtype=np.float64)
    which = prompt_numbers(prompts)
    assert len(rows) == len(which), f"{len(rows)} values of {len(which)} rows"
    return np.bincount(which, rows) / np.bincount(which)


def any_by_prompt(flags: ArrayLike, prompts: Sequence[Hashable]) -> NDArray[np.bool_]:
    """Whether any of each prompt's rows is flagged, in the order in which prompts come first."""
    which = prompt_numbers(prompts)
    return np.bincount(which, np.asarray(flags, dtype=np.float64)) > 0


def share_upper_bound(count: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """Exact one-sided upper bound of a share of which `count` of `trials` were seen.

    Raises:
        DataError: there is no trial.

    Source:
        Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
        Biometrika 26 (1934).
    """
    from scipy.stats import beta

    if trials < 1:
        raise DataError("a bound of no prompts at all was asked for; the gate split is empty, give it more prompts")
    return 1.0 if count == trials else float(beta.ppf(confidence, count + 1, trials - count))


def trials_needed(limit: float, count: int = 0, confidence: float = CONFIDENCE) -> int:
    """The fewest prompts of which `count` may be unsafe so that the bound of the share is at most the limit.

    Args:
        limit: above 0; no number of prompts shows that a share is 0.
        count: unsafe prompts.
        confidence: of the bound.
    """
    assert limit > 0, "no number of prompts shows a share of 0"
    if limit >= 1:
        return max(count, 1)
    low, high = count, max(count, 1)
    while share_upper_bound(count, high, confidence) > limit and high < _MOST_TRIALS:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if share_upper_bound(count, middle, confidence) <= limit else (middle, high)
    return high


def mean_bound(values: ArrayLike, *, upper: bool, level: float = 1 - CONFIDENCE) -> float:
    """One-sided Student bound of a mean, for levels at which resampling would have no resolution.

    Where the sample is too small for its signs alone to show anything at this level, there is no bound.

    Args:
        values: one per prompt, [N].
        upper: the bound from above; otherwise from below.
        level: the chance that the true mean lies beyond.
    """
    from scipy.stats import t

    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < max(2, prompts_needed(level)):
        return math.inf if upper else -math.inf
    half = float(t.isf(level, len(sample) - 1) * sample.std(ddof=1) / len(sample) ** 0.5)
    return float(sample.mean()) + (half if upper else -half)


def win_rate_lower_bound(wins: ArrayLike, level: float = 1 - CONFIDENCE) -> float:
    """One-sided score bound of a win rate from below, with a continuity correction; ties have their own variance.

    Wilson's bound, with the variance p(1 - p) of wins and losses less what ties take of it. So many prompts that all
    were won give no bound of 1.

    Args:
        wins: 1, 0 or, of a tie, 0.5 a prompt; shares between them where a prompt has several rows, [N].
        level: the chance that the true rate lies below.

    Source:
        Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    sample = np.asarray(wins, dtype=np.float64)
    n = len(sample)
    if n < prompts_needed(level):
        return 0.0
    mean = float(sample.mean())
    tied = max(0.0, mean * (1 - mean) - float(sample.var()))
    seen = max(0.0, mean - 1 / (2 * n))
    c = NormalDist().inv_cdf(1 - level) ** 2 / n
    # (seen - p)^2 = c (p (1 - p) - tied), solved for the smaller p.
    half, rest = (2 * seen + c) / 2, seen**2 + c * tied
    return max(0.0, (half - math.sqrt(max(0.0, half**2 - (1 + c) * rest))) / (1 + c))


def ratio_upper_bound(first: ArrayLike, second: ArrayLike, confidence: float = CONFIDENCE, seed: int = 0) -> float:
    """One-sided upper bound of a ratio of means, by resampling prompts.

    Args:
        first: one per prompt, such as the candidate's mean length, [N].
        second: the same of the champion, [N]. A mean below 1 counts as 1.
        confidence: of the bound.
        seed: of the resampling.

    Source:
        Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979).
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    rng = np.random.default_rng(seed)
    ratios = []
    for _ in range(_NUM_RESAMPLES):
        rows = rng.integers(len(a), size=len(a))
        ratios.append(a[rows].mean() / max(b[rows].mean(), 1.0))
    return float(np.quantile(ratios, confidence))


def prompts_needed(level: float) -> int:
    """The fewest prompts by whose signs alone anything can be shown at a level: all alike by chance is 2^-N."""
    return math.ceil(-math.log2(level))


def level_of(comparison: int, rate: float) -> float:
    """The risk of a false promotion that one comparison may take: the share 2 / ((k + 1) (k + 2)) of the rate.

    The shares 1/3, 1/6, 1/10, 1/15, ... sum up to 1, so the rate is kept however many comparisons there are, and
    however they hang together. ADR 16 has the measured choice among such sequences.

    Args:
        comparison: k, 1 for the first with a champion, 2 for the next.
        rate: the chance that any of the candidates without gain is promoted.

    Source:
        Lan and DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 70 (1983): spending the level.
    """
    return rate * 2 / ((comparison + 1) * (comparison + 2))

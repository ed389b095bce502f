"""Figures with their uncertainty: shares, means, paired differences, win rates, correlation, diversity.

The unit of every interval is the prompt. Rows that share a prompt are no independent witnesses: where a function takes
`prompts`, one key per row, its interval is that of a sample of prompts, each with all its rows. Without `prompts` each
row counts as a prompt of its own.

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
from rlhf.evaluation.intervals import (
    CONFIDENCE,
    Prompts,
    RowsByPrompt,
    design_effect,
    group_by_prompt,
    quantile,
    sample_of_prompts,
    score_bounds,
    with_skewness,
)

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
        num_prompts: different prompts among the rows.
        rate: wins and half the ties, as a share of all rows.
    """

    wins: int
    ties: int
    losses: int
    num_prompts: int
    rate: Estimate

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Correlation:
    """Correlation coefficients of two samples; None where a sample is constant.

    Attributes:
        pearson: linear.
        spearman: of ranks.
    """

    pearson: float | None
    spearman: float | None


def share_interval(outcomes: ArrayLike, prompts: Prompts = None) -> Estimate:
    """A mean of outcomes that are 0, 1/2 (a tie) or 1, with its score interval.

    Tango's interval for the difference of wins and losses: without ties it is Wilson's, with ties it is as narrow as
    they make it. Where rows share prompts, the counts are divided by the design effect, which is how much more the mean
    varies between samples of prompts than between as many independent rows; and since that is estimated, the normal
    quantile becomes a Student one, whose degrees of freedom are those of the estimate (Satterthwaite). Where all
    outcomes are equal, or only three prompts or fewer hold another one, they do not tell the design effect, and the
    largest possible one is taken, that of prompts whose rows are all alike. So the interval is never empty.

    Args:
        outcomes: each 0, 1/2 or 1, [N], N at least 1.
        prompts: the prompt of each row, [N].

    Raises:
        DataError: there is no row.

    Source:
        Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
        design", Statistics in Medicine 17 (1998); divided by the design effect, as Korn and Graubard, "Confidence
        intervals for proportions with small expected number of positive counts", Survey Methodology 24 (1998).
    """
    values = np.asarray(outcomes, dtype=np.float64)
    if not len(values):
        raise DataError("a proportion of no rows at all was asked for; the split is empty, give it more data")
    assert np.isin(values, (0.0, 0.5, 1.0)).all(), "outcomes are 0, 1/2 or 1"
    grouped = group_by_prompt(values, prompts)
    effect, degrees = design_effect(values, grouped)
    wins, ties, losses = (float((values == outcome).sum()) / effect for outcome in (1.0, 0.5, 0.0))
    low, high = score_bounds(wins, ties, losses, quantile(degrees))
    return Estimate(grouped.mean, min(grouped.mean, low), max(grouped.mean, high))


def share_p_value(outcomes: ArrayLike, share: float, prompts: Prompts = None) -> float:
    """The chance of as large a mean of outcomes, or a larger one, were the true one `share`.

    Of the score test that `share_interval` inverts: below 0.025 where that interval is wholly above the share.

    Args:
        outcomes: each 0 or 1, [N], N at least 1.
        share: from 0 to 1.
        prompts: the prompt of each row, [N].
    """
    from scipy.special import stdtr

    values = np.asarray(outcomes, dtype=np.float64)
    grouped = group_by_prompt(values, prompts)
    effect, degrees = design_effect(values, grouped)
    error = (share * (1 - share) * effect / len(values)) ** 0.5
    if error == 0:
        return float(grouped.mean <= share)
    statistic = (grouped.mean - share) / error
    if np.isinf(degrees):
        return 1 - NormalDist().cdf(statistic)
    return float(stdtr(max(degrees, 1.0), -statistic))


def holm(p_values: Sequence[float], level: float) -> list[bool]:
    """Which of several hypotheses are rejected, so that the chance that any true one is stays below a level.

    Args:
        p_values: one per hypothesis, [K].
        level: of all of them together.

    Source:
        Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    rejected = [False] * len(p_values)
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        if p_values[place] > level / (len(p_values) - rank):
            break
        rejected[place] = True
    return rejected


def mean_interval(values: ArrayLike, prompts: Prompts = None, confidence: float = CONFIDENCE) -> Estimate:
    """A mean with its Student interval; of paired differences, this is the paired t interval.

    Where rows share prompts, the mean is a ratio of two sums over prompts, and its variance is that of the prompts'
    residuals, each divided by what its own weight takes from it (CR2). The degrees of freedom are those of prompts of
    unequal weight. A few heavy prompts make the mean's distribution skew: the interval is then extended to where the
    one without skewness (Hall's) ends, and is never shorter than Student's.

    Args:
        values: a number per row, [N].
        prompts: the prompt of each row, [N].
        confidence: how often the interval holds the mean, 0.95 as everywhere.

    Raises:
        DataError: fewer than two prompts, whose spread cannot be told.

    Source:
        Student, "The probable error of a mean", Biometrika 6 (1908); by prompt, Bell and McCaffrey, "Bias reduction in
        standard errors for linear regression with multi-stage samples", Survey Methodology 28 (2002); Hall, "On the
        removal of skewness by transformation", Journal of the Royal Statistical Society B 54 (1992).
    """
    grouped = sample_of_prompts(values, prompts)
    rows = float(grouped.counts.sum())
    variance = float((grouped.residuals**2 / (1 - grouped.weights)).sum()) / rows**2
    error, end = variance**0.5, quantile(grouped.degrees, confidence)
    ends = [-end, end]
    if len(grouped.counts) < rows:
        ends += [with_skewness(grouped.residuals, -end), with_skewness(grouped.residuals, end)]
    return Estimate(grouped.mean, grouped.mean - error * max(ends), grouped.mean - error * min(ends))


def paired_bootstrap(differences: ArrayLike, num_resamples: int, seed: int, prompts: Prompts = None) -> Estimate:
    """The mean of paired differences with its bootstrap interval. Prompts are resampled, each with all its pairs.

    The percentiles are the expanded ones of `RowsByPrompt.tail`.

    Args:
        differences: one per pair, such as the policy's gold reward less the baseline's on the same prompt, [N].
        num_resamples: samples of G prompts drawn with replacement.
        seed: of the draw.
        prompts: the prompt of each pair, [N].

    Raises:
        DataError: fewer than two prompts.

    Source:
        Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979); paired, as Koehn,
        "Statistical significance tests for machine translation evaluation", EMNLP 2004; expanded percentiles,
        Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69 (2015), section 4.3.
    """
    means, grouped = resampled_means([differences], num_resamples, seed, prompts)
    low, high = np.quantile(means[:, 0], [grouped.tail, 1 - grouped.tail])
    return Estimate(grouped.mean, float(low), float(high))


def resampled_means(
    values: Sequence[ArrayLike], num_resamples: int, seed: int, prompts: Prompts = None
) -> tuple[NDArray[np.float64], RowsByPrompt]:
    """The means of several values of the same rows, [S, K], each over S samples of prompts; and the rows by prompt.

    Args:
        values: K of them for each row, [K] of [N].
        num_resamples: samples of G prompts drawn with replacement, each prompt with all its rows.
        seed: of the draw.
        prompts: the prompt of each row, [N].

    Raises:
        DataError: fewer than two prompts.
    """
    grouped = [sample_of_prompts(of_rows, prompts) for of_rows in values]
    counts, size = grouped[0].counts, len(grouped[0].counts)
    rng = np.random.default_rng(seed)
    at_once = max(1, _RESAMPLED_VALUES_AT_ONCE // size)
    means = []
    for start in range(0, num_resamples, at_once):
        drawn = rng.integers(size, size=(min(at_once, num_resamples - start), size))
        rows = counts[drawn].sum(axis=1)
        means.append(np.stack([group.sums[drawn].sum(axis=1) / rows for group in grouped], axis=1))
    return np.concatenate(means), grouped[0]


def group_contrast(
    outcomes: ArrayLike, groups: Sequence[NDArray[np.intp]], weights: Sequence[float], prompts: Prompts = None
) -> Estimate:
    """A weighted sum of the shares of groups of rows, such as their mean, or one less another, with its interval.

    Each group's rows are divided by its design effect, as in `share_interval`, and 4 / K rows are added to it, half of
    them 1 and half 0: without them groups whose rows are all alike would have no variance. Where groups have prompts in
    common, the interval is at least that of the sum as a mean over prompts.

    Args:
        outcomes: each 0, 1/2 or 1, [N].
        groups: the row numbers of each of K groups; none is empty, and no row is in two.
        weights: of the groups' shares, [K].
        prompts: the prompt of each row, [N].

    Source:
        Price and Bonett, "An improved confidence interval for a linear function of binomial proportions", Computational
        Statistics and Data Analysis 45 (2004).
    """
    values = np.asarray(outcomes, dtype=np.float64)
    keys = range(len(values)) if prompts is None else prompts
    value = centre = variance = squares = 0.0
    linear = np.zeros(len(values))
    for group, weight in zip(groups, weights, strict=True):
        grouped = group_by_prompt(values[group], [keys[row] for row in group])
        effect, degrees = design_effect(values[group], grouped)
        rows = len(group) / effect
        share = (grouped.mean * rows + 2 / len(groups)) / (rows + 4 / len(groups))
        own = weight**2 * share * (1 - share) / (rows + 4 / len(groups))
        value, centre = value + weight * grouped.mean, centre + weight * share
        variance, squares = variance + own, squares + own**2 / degrees
        linear[group] = weight * (values[group] - grouped.mean) / len(group)
    error = variance**0.5 * quantile(variance**2 / squares if squares else np.inf)
    low, high = min(value, centre - error), max(value, centre + error)
    prompts_of_groups = [{keys[row] for row in group} for group in groups]
    if 1 < len(set().union(*prompts_of_groups)) < sum(map(len, prompts_of_groups)):
        rows_of_groups = np.concatenate(groups)
        of_rows = linear[rows_of_groups] * len(rows_of_groups)
        mean = mean_interval(value + of_rows, [keys[row] for row in rows_of_groups])
        low, high = min(low, mean.low), max(high, mean.high)
    return Estimate(value, low, high)


def win_rate(first: ArrayLike, second: ArrayLike, prompts: Prompts = None) -> WinRate:
    """Share of rows in which the first is greater, ties counting half, with its interval.

    With the scores of chosen and rejected responses this is a reward model's accuracy, with their lengths that of
    "the longer one wins".

    Args:
        first: one value per row, [N].
        second: the value to compare it with, [N].
        prompts: the prompt of each row, [N].
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    assert a.shape == b.shape, f"{a.shape} against {b.shape}"
    wins, losses = int((a > b).sum()), int((a < b).sum())
    count = len(a) if prompts is None else len(set(prompts))
    rate = share_interval(np.where(a == b, 0.5, a > b), prompts)
    return WinRate(wins, len(a) - wins - losses, losses, count, rate)


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

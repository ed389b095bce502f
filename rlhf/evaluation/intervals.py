"""Parts of the intervals of `rlhf.evaluation.statistics`: rows by prompt, design effects, score bounds."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf.errors import DataError

CONFIDENCE = 0.95
"""Of every interval, where no other level is given."""
_LEAST_DESIGN_EFFECT = 0.5
"""Of rows that share prompts: prompts that differ less than independent rows would do so by chance."""
_FEW_PROMPTS = 3
"""So few prompts with a rare outcome do not tell how alike the rows of a prompt are."""

Prompts = Sequence[Hashable] | None
"""The prompt of each row, as `rlhf.data.preparation.splits.prompt_key` gives it; None where no two rows share one."""


@dataclass(frozen=True)
class RowsByPrompt:
    """Rows by prompt: N rows of G prompts.

    Attributes:
        which: the prompt of each row, [N].
        counts: rows of each prompt, [G].
        sums: sum of each prompt's values, [G].
        mean: of all rows, which is a ratio of two sums over prompts.
    """

    which: NDArray[np.intp]
    counts: NDArray[np.float64]
    sums: NDArray[np.float64]
    mean: float

    @property
    def weights(self) -> NDArray[np.float64]:
        """Share of the rows that each prompt has, [G]."""
        return np.asarray(self.counts / self.counts.sum())

    @property
    def residuals(self) -> NDArray[np.float64]:
        """Sum of each prompt's distances from the mean, [G]."""
        return self.sums - self.counts * self.mean

    @property
    def effective(self) -> float:
        """Prompts of equal weight that would say as much, were all rows of a prompt alike (Kish): G, or less."""
        return float(1 / (self.weights**2).sum())

    @property
    def degrees(self) -> float:
        """Degrees of freedom of the mean's variance, were all rows of a prompt alike: G - 1, or less."""
        return float((self.weights**2).sum() ** 2 / (self.weights**4).sum() - 1)

    @property
    def tail(self) -> float:
        """Share of the bootstrap's resamples beyond each end of a 95% interval, whose percentiles are expanded.

        As far out as makes up for the bootstrap's variance, which is too small by 1/G, and for its normal quantiles,
        where Student's are due. With hundreds of prompts nothing is left of the expansion.

        Source:
            Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69 (2015), 4.3.
        """
        spread = (self.effective / (self.effective - 1)) ** 0.5
        return NormalDist().cdf(-spread * quantile(self.degrees))


def prompt_numbers(prompts: Sequence[Hashable]) -> NDArray[np.intp]:
    """The prompt of each row as a number, from 0 on in the order in which prompts come first, [N]."""
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    return np.array([numbers[prompt] for prompt in prompts], dtype=np.intp)


def group_by_prompt(values: NDArray[np.float64], prompts: Prompts) -> RowsByPrompt:
    """Put rows together by their prompts, in the order in which these come first.

    Args:
        values: a number per row, [N], N at least 1.
        prompts: the prompt of each row, [N].
    """
    if prompts is None:
        which = np.arange(len(values))
    else:
        assert len(prompts) == len(values), f"{len(prompts)} prompts for {len(values)} rows"
        which = prompt_numbers(prompts)
    counts = np.bincount(which).astype(np.float64)
    return RowsByPrompt(which, counts, np.asarray(np.bincount(which, values), np.float64), float(values.mean()))


def sample_of_prompts(values: ArrayLike, prompts: Prompts) -> RowsByPrompt:
    """Put the rows of a sample together, of which an interval of the mean is asked for; arguments as above.

    Raises:
        DataError: fewer than two prompts, whose spread cannot be told.
    """
    sample = np.asarray(values, dtype=np.float64)
    grouped = group_by_prompt(sample, prompts) if sample.ndim == 1 and len(sample) else None
    if grouped is None or len(grouped.counts) < 2:
        there = f"{0 if grouped is None else len(grouped.counts)} with {sample.size} rows"
        raise DataError(f"an interval needs at least 2 prompts, and there are {there}; give the split more data")
    return grouped


def design_effect(values: NDArray[np.float64], grouped: RowsByPrompt) -> tuple[float, float]:
    """How much more the mean varies than that of as many independent rows; and the estimate's degrees of freedom.

    Args:
        values: outcomes, each 0, 1/2 or 1, [N].
        grouped: the same by prompt.
    """
    largest = float(len(values) / grouped.effective)
    if len(grouped.counts) == len(values):
        return 1.0, np.inf
    if len(grouped.counts) == 1 or np.ptp(values) == 0:
        return largest, np.inf
    squares = np.bincount(grouped.which, (values - grouped.mean) ** 2)
    own = grouped.residuals**2 * (1 - 1 / len(grouped.counts)) / (1 - grouped.weights)
    effect = float(own.sum() / squares.sum())
    if _informative(values, grouped) <= _FEW_PROMPTS:
        return max(effect, largest), grouped.degrees
    if effect < _LEAST_DESIGN_EFFECT:
        return _LEAST_DESIGN_EFFECT, grouped.degrees
    # What each prompt adds to the logarithm of the ratio.
    influence = own / own.sum() - squares / squares.sum()
    return effect, min(2 / max(float((influence**2).sum()), 1e-12), grouped.degrees)


def with_skewness(residuals: NDArray[np.float64], end: float) -> float:
    """The studentized mean that Hall's transformation turns into `end`, by the skewness of the residuals, [G]."""
    squares = float((residuals**2).sum())
    skewness = float((residuals**3).sum()) / squares**1.5 if squares > 0 else 0.0
    if abs(skewness) < 1e-6:
        return end
    return float(3 / skewness * (np.cbrt(1 + skewness * (end - skewness / 6)) - 1))


def _informative(values: NDArray[np.float64], grouped: RowsByPrompt) -> int:
    """Prompts that hold another outcome than the most frequent one."""
    outcomes, counts = np.unique(values, return_counts=True)
    return len(np.unique(grouped.which[values != outcomes[counts.argmax()]]))


def quantile(degrees: float, confidence: float = CONFIDENCE) -> float:
    """Student's two-sided quantile; the normal distribution's where the degrees of freedom are infinite."""
    from scipy.special import stdtrit

    tail = 0.5 + confidence / 2
    return NormalDist().inv_cdf(tail) if np.isinf(degrees) else float(stdtrit(max(degrees, 1.0), tail))


def score_bounds(wins: float, ties: float, losses: float, z: float) -> tuple[float, float]:
    """Bounds of the win rate (1 + d) / 2, with d the difference of the shares of wins and losses."""
    n = wins + ties + losses
    observed = (wins - losses) / n

    def inside(d: float) -> bool:
        """Whether d, were it the true difference, lies within z standard deviations of the one that was found."""
        b = (2 * n - wins + losses) * d - wins - losses
        # Under the root stands nothing below 0, but for rounding.
        share_of_losses = (math.sqrt(max(0.0, b**2 + 8 * n * losses * d * (1 - d))) - b) / (4 * n)
        return (observed - d) ** 2 * n <= z**2 * (2 * share_of_losses + d * (1 - d))

    return (1 + _edge(inside, observed, -1.0)) / 2, (1 + _edge(inside, observed, 1.0)) / 2


def _edge(inside: Callable[[float], bool], start: float, end: float) -> float:
    """The last point from `start` to `end` that is inside, by bisection to the last bit."""
    if inside(end):
        return end
    for _ in range(60):
        middle = (start + end) / 2
        start, end = (middle, end) if inside(middle) else (start, middle)
    return start

"""Figures of two policies on the same prompts, and their change: policy less baseline, paired by prompt.

Shapes: N rows, of which several may share a prompt; S weightings of them.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf.evaluation.intervals import group_by_prompt
from rlhf.evaluation.statistics import Estimate, paired_bootstrap, share_interval

Keys = Sequence[Hashable]
Figure = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""A figure of weighted rows: weights [S, N] to figures [S], NaN where there is none."""
_VALUES_AT_ONCE = 4_000_000
_MOST_UNDEFINED = 0.05
"""Share of the resamples that may have no figure."""
_FEW_PROMPTS = 3
"""So few prompts with another outcome do not tell a bootstrap how rare such prompts are."""


@dataclass(frozen=True)
class Resampling:
    """The bootstrap of an evaluation.

    Attributes:
        num_resamples: samples of prompts.
        seed: of the draws.
    """

    num_resamples: int
    seed: int


@dataclass(frozen=True)
class PairedFigure:
    """A figure of both policies; None where it is not defined, or where one prompt is all there is.

    Attributes:
        policy: of the policy.
        baseline: of the SFT policy that it started from.
        change: the first less the second.
    """

    policy: Estimate | None
    baseline: Estimate | None
    change: Estimate | None

    def as_dict(self) -> dict[str, Mapping[str, float] | None]:
        """For JSON."""
        sides = {"policy": self.policy, "baseline": self.baseline, "change": self.change}
        return {side: estimate.as_dict() if estimate else None for side, estimate in sides.items()}


def paired_shares(ours: ArrayLike, theirs: ArrayLike, prompts: Keys) -> PairedFigure:
    """Shares of the rows for which something holds, with score intervals (Wilson's; Tango's for their difference).

    Args:
        ours: whether it holds for the policy's response, [N].
        theirs: the same of the baseline's.
        prompts: the prompt of each row.
    """
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    return PairedFigure(share_interval(a, prompts), share_interval(b, prompts), share_difference(a - b, prompts))


def share_difference(differences: NDArray[np.float64], prompts: Keys) -> Estimate:
    """The mean of differences of two outcomes of a row, each -1, 0 or 1, with Tango's score interval."""
    half = share_interval((1 + differences) / 2, prompts)
    return Estimate(*(2 * end - 1 for end in (half.value, half.low, half.high)))


def paired_differences(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], prompts: Keys, resampling: Resampling
) -> PairedFigure:
    """Differences of two shares of the same rows, and how far the policies' differ.

    Args:
        ours: -1, 0 or 1 for each row of the policy, [N].
        theirs: the same of the baseline.
        prompts: the prompt of each row.
        resampling: of the change.
    """
    a, b = share_difference(ours, prompts), share_difference(theirs, prompts)
    change = change_of_means(ours - theirs, prompts, resampling)
    num_changed = len({prompt for prompt, changed in zip(prompts, (ours != theirs).tolist(), strict=True) if changed})
    if change is not None and num_changed <= _FEW_PROMPTS:
        change = _unpaired(change.value, a, b)
    return PairedFigure(a, b, change)


def change_of_means(differences: NDArray[np.float64], prompts: Keys, resampling: Resampling) -> Estimate | None:
    """The mean of paired differences with its bootstrap interval; None where one prompt is all there is."""
    if len(set(prompts)) < 2:
        return None
    return paired_bootstrap(differences, resampling.num_resamples, resampling.seed, prompts)


def resampled(figure: Figure, prompts: Keys, resampling: Resampling) -> Estimate | None:
    """A figure with its percentile interval over samples of prompts, each with all its rows.

    Args:
        figure: of weighted rows.
        prompts: the prompt of each row, [N].
        resampling: how many samples, and their seed.

    Returns:
        None where there are fewer than two prompts, or where the figure or many of its resamples are not defined.

    Source:
        Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979).
    """
    num_rows = len(prompts)
    grouped = group_by_prompt(np.zeros(num_rows), prompts)
    num_prompts, rng = len(grouped.counts), np.random.default_rng(resampling.seed)
    value = float(figure(np.ones((1, num_rows)))[0])
    figures, at_once = [], max(1, _VALUES_AT_ONCE // num_rows)
    for start in range(0, resampling.num_resamples, at_once):
        size = min(at_once, resampling.num_resamples - start)
        drawn = rng.multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), size=size)
        figures.append(figure(drawn[:, grouped.which].astype(np.float64)))
    values = np.concatenate(figures)
    if num_prompts < 2 or math.isnan(value) or np.isnan(values).mean() > _MOST_UNDEFINED:
        return None
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def prompts_for_change(figure: Mapping[str, float], num_prompts: int, change: float) -> int | None:
    """How many prompts it takes until a change of this size can be told; None where there are enough.

    An interval's width falls with the root of the number of prompts, so `num_prompts` prompts whose interval reaches
    h to one side tell a change above h, and a change of c takes (h / c)^2 times as many.

    Args:
        figure: the change that was found, with its interval.
        num_prompts: prompts that it was found on.
        change: the size that is to be told from none.
    """
    reach = max(figure["value"] - figure["low"], figure["high"] - figure["value"])
    return math.ceil(num_prompts * (reach / change) ** 2) if reach > change else None


def with_spread(change: Estimate | None, ours: Estimate | None, theirs: Estimate | None) -> Estimate | None:
    """The change; where no resample shows another one, with the interval of two figures that are not paired.

    So equal outcomes on five prompts do not look like a change that is known exactly.

    Source:
        Newcombe, "Interval estimation for the difference between independent proportions", Statistics in Medicine 17
        (1998), method 10.
    """
    if change is None or ours is None or theirs is None or change.low < change.high:
        return change
    return _unpaired(change.value, ours, theirs)


def _unpaired(change: float, ours: Estimate, theirs: Estimate) -> Estimate:
    low = math.hypot(ours.value - ours.low, theirs.high - theirs.value)
    high = math.hypot(ours.high - ours.value, theirs.value - theirs.low)
    return Estimate(change, change - low, change + high)


def as_numbers(flags: Sequence[bool]) -> NDArray[np.float64]:
    """Outcomes of rows as 0 and 1, [N]."""
    return np.array(flags, dtype=np.float64)

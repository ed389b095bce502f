"""Scores against the distance from the SFT policy, fitted by the forms of Gao et al., and where they peak.

The distance d is the square root of the KL in nats per response. Of learning by a policy gradient a score gains
d (alpha - beta log d) on its start, of best-of-n sampling d (alpha - beta d). With a beta of 0 it is the law of Bai et
al., a gain in proportion to d.

Shapes: N rows of G prompts, U points on the way.

Source:
    Gao, Schulman, Hilton, "Scaling laws for reward model overoptimization", 2210.10760, section 3.1; Bai et al.,
    2204.05862, section 4.3.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.evaluation.intervals import Prompts, prompt_numbers, sample_of_prompts
from rlhf.evaluation.statistics import Estimate

Floats = NDArray[np.float64]

LEAST_POINTS = 3
"""Points besides the start, of different distances, that a fit of two coefficients needs."""
_RESAMPLED_VALUES_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Form:
    """A form of the gain over the start: d (alpha - beta bend(d)).

    Attributes:
        text: for people.
        bend: of the distance.
        peak: the distance with the largest gain, from alpha / beta where beta is above 0.
    """

    text: str
    bend: Callable[[Floats], Floats]
    peak: Callable[[Floats], Floats]

    def gain(self, distance: Floats, alpha: float, beta: float) -> Floats:
        """What a score gains at a distance; nothing at 0."""
        return distance * (alpha - beta * self.bend(np.where(distance > 0, distance, 1.0)))


POLICY_GRADIENT = Form("d (alpha - beta log d)", np.log, lambda ratio: np.exp(ratio - 1))
BEST_OF_N = Form("d (alpha - beta d)", lambda distance: distance, lambda ratio: np.maximum(ratio / 2, 0.0))
FORMS: Mapping[str, Form] = {form.text: form for form in (POLICY_GRADIENT, BEST_OF_N)}


@dataclass(frozen=True)
class Fit:
    """A form fitted to a score by least squares.

    The intervals are of a bootstrap over prompts, with the same prompts at every point: other prompts would have given
    other coefficients. Whether the form fits they do not say; R^2 says how well it does.

    Attributes:
        form: of FORMS.
        alpha: score per unit of distance.
        beta: of the bend.
        r_squared: share of the gains' variance between the points that the fit explains; None where they are equal.
        peak: distance with the largest fitted gain, and its interval; infinite where the fit rises for ever.
        largest: distance that was reached.
        num_points: that were fitted, the start apart.
    """

    form: str
    alpha: Estimate
    beta: Estimate
    r_squared: float | None
    peak: Estimate
    largest: float
    num_points: int

    @property
    def peak_seen(self) -> bool:
        """The peak's interval lies within the distances that were reached."""
        return self.peak.high <= self.largest

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity: None stands for it."""
        peak = {name: end if np.isfinite(end) else None for name, end in self.peak.as_dict().items()}
        return asdict(self) | {"peak": peak, "peak_seen": self.peak_seen}


def fit_policy_gradient(kl: Floats, values: Floats, prompts: Prompts, num_resamples: int, seed: int) -> Fit | None:
    """Fit the form of policy gradients to a score; None where there are too few points.

    Args:
        kl: nats per response, [N, U]; the first point is the start, from which gains are measured.
        values: the score, [N, U].
        prompts: the prompt of each row, [N].
        num_resamples: of the bootstrap.
        seed: of the draws.

    Raises:
        DataError: fewer than two prompts.
    """
    return _fit(POLICY_GRADIENT, np.stack([kl, values]), prompts, num_resamples, seed)


def fit_best_of_n(kl: Floats, values: Floats, prompts: Prompts, num_resamples: int, seed: int) -> Fit | None:
    """Fit the form of best-of-n sampling; arguments as above, but the KL is known, [U]."""
    rows = np.broadcast_to(kl, values.shape)
    return _fit(BEST_OF_N, np.stack([rows, values]), prompts, num_resamples, seed)


def _fit(form: Form, rows: Floats, prompts: Prompts, num_resamples: int, seed: int) -> Fit | None:
    """Fit to the means over all prompts, and over resampled ones; `rows` are KL and score, [2, N, U]."""
    grouped = sample_of_prompts(rows[1, :, 0], prompts)
    which = np.arange(rows.shape[1]) if prompts is None else prompt_numbers(prompts)
    sums = np.zeros((len(grouped.counts), 2 * rows.shape[2]))
    np.add.at(sums, which, np.concatenate([rows[0], rows[1]], axis=1))
    distances, gains = _points(sums.sum(0)[None] / rows.shape[1])
    if len(np.unique(distances[distances > 0])) < LEAST_POINTS:
        return None
    alpha, beta, peak = _solve(form, distances, gains)
    if np.isnan(alpha[0]):
        return None
    resampled = _solve(form, *_points(_resampled_means(sums, grouped.counts, num_resamples, seed)))
    intervals = [
        _interval(value[0], values, grouped.tail) for value, values in zip((alpha, beta, peak), resampled, strict=True)
    ]
    errors = gains[0] - form.gain(distances[0], alpha[0], beta[0])
    spread = float(((gains[0] - gains[0].mean()) ** 2).sum())
    return Fit(
        form=form.text,
        alpha=intervals[0],
        beta=intervals[1],
        r_squared=1 - float((errors**2).sum()) / spread if spread > 0 else None,
        peak=intervals[2],
        largest=float(distances.max()),
        num_points=distances.shape[1],
    )


def _points(means: Floats) -> tuple[Floats, Floats]:
    """Distances and gains of all points but the first, [S, U - 1] each, from means of KL and score, [S, 2 U]."""
    kl, values = np.split(means, 2, axis=1)
    return np.sqrt(np.maximum(kl[:, 1:], 0.0)), values[:, 1:] - values[:, :1]


def _resampled_means(sums: Floats, counts: Floats, num_resamples: int, seed: int) -> Floats:
    """Means over samples of G prompts drawn with replacement, each with all its rows, [S, 2 U]."""
    size, rng = len(counts), np.random.default_rng(seed)
    at_once = max(1, _RESAMPLED_VALUES_AT_ONCE // size)
    means = []
    for start in range(0, num_resamples, at_once):
        times = rng.multinomial(size, np.full(size, 1 / size), min(at_once, num_resamples - start)).astype(np.float64)
        means.append(times @ sums / (times @ counts)[:, None])
    return np.concatenate(means)


def _solve(form: Form, distances: Floats, gains: Floats) -> tuple[Floats, Floats, Floats]:
    """Least squares of each row of points: alpha, beta and the peak, [S]; not a number where points do not tell."""
    first = distances
    second = -distances * form.bend(np.where(distances > 0, distances, 1.0))
    aa, ab, bb = (first**2).sum(1), (first * second).sum(1), (second**2).sum(1)
    ag, bg = (first * gains).sum(1), (second * gains).sum(1)
    determinant = aa * bb - ab**2
    determinant = np.where(determinant > 1e-12 * aa * bb, determinant, np.nan)
    alpha, beta = (ag * bb - bg * ab) / determinant, (bg * aa - ag * ab) / determinant
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return alpha, beta, np.where(beta > 0, form.peak(alpha / beta), np.inf)


def _interval(value: float, resampled: Floats, tail: float) -> Estimate:
    """A value with the ends of its resamples, of which some may be infinite, so that nothing is interpolated."""
    known = np.sort(resampled[~np.isnan(resampled)])
    low = known[int(np.floor(tail * (len(known) - 1)))]
    high = known[int(np.ceil((1 - tail) * (len(known) - 1)))]
    return Estimate(float(value), float(low), float(high))

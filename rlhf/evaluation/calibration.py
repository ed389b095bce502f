"""Whether a reward model is as sure as it should be: expected calibration error beside its null, Brier score, log loss.

The prompt is the unit of every interval, as in `rlhf.evaluation.statistics`.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf.evaluation.intervals import prompt_numbers
from rlhf.evaluation.statistics import Estimate, mean_interval, share_interval

NUM_NULL_DRAWS = 1000
_NULL_QUANTILE = 0.95


@dataclass(frozen=True)
class ReliabilityBin:
    """The predictions whose confidence lies between `low` and `high`.

    Attributes:
        low: lower edge.
        high: upper edge, exclusive but for the last bin.
        count: predictions in it, never 0.
        num_prompts: different prompts among them.
        confidence: their mean confidence.
        accuracy: share of them that came true.
    """

    low: float
    high: float
    count: int
    num_prompts: int
    confidence: float
    accuracy: Estimate


@dataclass(frozen=True)
class CalibrationNull:
    """The expected calibration error that chance alone gives a perfectly calibrated model with the same confidences.

    Attributes:
        mean: over the simulated outcomes.
        high: their 95% quantile; an error up to here is not told from none.
    """

    mean: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy lie apart.

    Attributes:
        expected_calibration_error: their distance, averaged over the predictions. Never 0 by chance: see `null`.
        null: what it is where the model is calibrated.
        interval: of the distance without what chance adds, which is at most the null's mean: it is taken off the lower
            end, and not off the upper one.
        brier: mean of (1 - P(chosen wins))^2, 0.25 for a coin. Lower is better.
        log_loss: mean of -log P(chosen wins) in nats per pair, 0.693 for a coin. Lower is better.
        bins: those that hold a prediction, by rising confidence.
    """

    expected_calibration_error: float
    null: CalibrationNull
    interval: Estimate
    brier: Estimate
    log_loss: Estimate
    bins: tuple[ReliabilityBin, ...]


def calibration(
    margins: ArrayLike,
    num_bins: int,
    seed: int,
    prompts: Sequence[Hashable] | None = None,
    num_draws: int = NUM_NULL_DRAWS,
) -> Calibration:
    """Calibration of a reward model whose scores of chosen and rejected responses differ by these margins.

    Which of two responses stands first says nothing, so a probability of "chosen wins" is not compared with an outcome
    that is always 1. The prediction is the response that the model prefers: its confidence is max(p, 1 - p), between
    0.5 and 1, and it is right where p is above 0.5. At exactly 0.5 it counts as half right.

    Args:
        margins: score of the chosen less score of the rejected response, [N]; P(chosen wins) is its sigmoid.
        num_bins: of equal width over [0.5, 1].
        seed: of the null's draws.
        prompts: the prompt of each pair, [N]; None where no two share one.
        num_draws: of outcomes, for the null.

    Raises:
        DataError: fewer than two prompts.

    Source:
        Guo et al., "On calibration of modern neural networks", 1706.04599, equation 3; Brier, "Verification of
        forecasts expressed in terms of probability", Monthly Weather Review 78 (1950).
    """
    from scipy.special import expit

    margin = np.asarray(margins, dtype=np.float64)
    keys = list(range(len(margin))) if prompts is None else list(prompts)
    p = expit(margin)
    confidence = np.maximum(p, 1 - p)
    right = np.where(p == 0.5, 0.5, p > 0.5)
    edges = np.linspace(0.5, 1.0, num_bins + 1)
    which = np.clip(np.digitize(confidence, edges) - 1, 0, num_bins - 1)
    bins = []
    for number in np.unique(which):
        rows = np.flatnonzero(which == number)
        inside = [keys[row] for row in rows]
        accuracy = share_interval(right[rows], inside)
        low, high = float(edges[number]), float(edges[number + 1])
        mean = float(confidence[rows].mean())
        bins.append(ReliabilityBin(low, high, len(rows), len(set(inside)), mean, accuracy))
    gaps, null = right - confidence, _null(confidence, right, which, keys, seed, num_draws)
    # With the sign of each bin held, the error is a mean over rows.
    signed = mean_interval(gaps * np.sign(np.bincount(which, gaps))[which], keys)
    error = _error(gaps, which)
    return Calibration(
        error,
        null,
        Estimate(error, max(0.0, signed.low - null.mean), max(error, signed.high)),
        mean_interval((1 - p) ** 2, keys),
        mean_interval(np.logaddexp(0, -margin), keys),
        tuple(bins),
    )


def _error(gaps: NDArray[np.float64], which: NDArray[np.intp]) -> float:
    """Expected calibration error of distances between outcome and confidence, [N], in their bins, [N]."""
    return float(np.abs(np.bincount(which, gaps)).sum() / len(gaps))


def _null(
    confidence: NDArray[np.float64],
    right: NDArray[np.float64],
    which: NDArray[np.intp],
    keys: Sequence[Hashable],
    seed: int,
    num_draws: int,
) -> CalibrationNull:
    """Outcomes drawn from the confidences themselves, as alike within a prompt as the true ones are.

    A row takes its random number from its prompt with probability sqrt(r), or else its own: two rows of a prompt then
    correlate by about r, and each is right as often as its confidence says.
    """
    prompt = prompt_numbers(keys)
    size = int(prompt.max()) + 1
    alike = _likeness(right, which, prompt) ** 0.5
    rng = np.random.default_rng(seed)
    errors = []
    for _ in range(num_draws):
        drawn = rng.random(len(confidence))
        if alike:
            drawn = np.where(rng.random(len(drawn)) < alike, rng.random(size)[prompt], drawn)
        outcome = np.where(confidence == 0.5, 0.5, drawn < confidence)
        errors.append(_error(outcome - confidence, which))
    return CalibrationNull(float(np.mean(errors)), float(np.quantile(errors, _NULL_QUANTILE)))


def _likeness(right: NDArray[np.float64], which: NDArray[np.intp], prompt: NDArray[np.intp]) -> float:
    """Correlation r of outcomes of one prompt, each less its bin's accuracy; 0 where no two rows share a prompt."""
    accuracy = (np.bincount(which, right) / np.maximum(np.bincount(which), 1))[which]
    residuals, deviations = right - accuracy, np.sqrt(accuracy * (1 - accuracy))
    products, largest = (
        float((np.bincount(prompt, values) ** 2 - np.bincount(prompt, values**2)).sum())
        for values in (residuals, deviations)
    )
    return min(1.0, max(0.0, products / largest)) if largest > 1e-12 else 0.0

"""Temperature scaling: one number by which scores are divided, so that a model is as sure as it should be."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf.errors import DataError
from rlhf.evaluation.calibration import Calibration, calibration
from rlhf.evaluation.intervals import Prompts, prompt_numbers
from rlhf.evaluation.statistics import Estimate, mean_interval


class NoTemperatureError(DataError):
    """No temperature makes the pairs at hand most likely."""


@dataclass(frozen=True)
class TemperatureScaling:
    """What one temperature does to a reward model's calibration on held-out pairs.

    Attributes:
        temperature: fitted on all pairs, for use; above 1 where the model is too sure.
        folds: fitted on either half of the prompts.
        calibration: of margins divided by the temperature of the half that they are not in.
        log_loss_change: mean of each pair's log loss with scaling less that without, in nats.
        brier_change: the same of the Brier score.
    """

    temperature: Estimate
    folds: tuple[float, float]
    calibration: Calibration
    log_loss_change: Estimate
    brier_change: Estimate


def temperature_scaling(
    margins: ArrayLike, num_bins: int, seed: int, prompts: Sequence[Hashable]
) -> TemperatureScaling:
    """Calibration with one temperature, measured on other prompts than it was fitted on.

    The prompts are halved at random. Each half's margins are divided by the temperature of the other half, so that all
    pairs are measured and none helps to fit the temperature that it is measured with.

    Args:
        margins: score of the chosen less score of the rejected response, [N].
        num_bins: of the reliability diagram.
        seed: of the halves and of the null's draws.
        prompts: the prompt of each pair, [N].

    Raises:
        NoTemperatureError: a half, or all pairs together, has no best temperature.

    Source:
        Guo et al., "On calibration of modern neural networks", 1706.04599, section 4.2.
    """
    from scipy.special import expit

    margin = np.asarray(margins, dtype=np.float64)
    number = prompt_numbers(prompts)
    size = int(number.max()) + 1
    in_second = np.isin(number, np.random.default_rng(seed).permutation(size)[size // 2 :])
    first, second = (fit_temperature(margin[half]) for half in (~in_second, in_second))
    scaled = margin / np.where(in_second, first, second)
    return TemperatureScaling(
        temperature_interval(margin, prompts),
        (first, second),
        calibration(scaled, num_bins, seed, prompts),
        mean_interval(np.logaddexp(0, -scaled) - np.logaddexp(0, -margin), prompts),
        mean_interval(expit(-scaled) ** 2 - expit(-margin) ** 2, prompts),
    )


def fit_temperature(margins: NDArray[np.float64]) -> float:
    """The temperature that makes the raters' choices most likely.

    Args:
        margins: score of the chosen less score of the rejected response, [N].

    Raises:
        NoTemperatureError: the likelihood has no maximum between 0 and infinity.
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    if not len(margins) or margins.mean() <= 0:
        raise NoTemperatureError("its scores do not favour what raters chose, so the hotter the better")
    if margins.min() >= 0:
        raise NoTemperatureError("it has no pair wrong, so the colder the better; more held-out pairs would tell")
    unit = margins / np.abs(margins).max()

    def slope(inverse: float) -> float:
        """Of the mean log-likelihood, by the inverse temperature; it falls."""
        return float((unit * expit(-inverse * unit)).mean())

    end = 1.0
    while slope(end) > 0:
        end *= 2
    return float(np.abs(margins).max() / brentq(slope, 0.0, end, xtol=1e-12))


def temperature_interval(margins: NDArray[np.float64], prompts: Prompts) -> Estimate:
    """The temperature of all pairs; the interval is that of its logarithm, linear in each pair's influence on it.

    Args:
        margins: score of the chosen less score of the rejected response, [N].
        prompts: the prompt of each pair, [N].

    Raises:
        NoTemperatureError: the likelihood has no maximum between 0 and infinity.
        DataError: fewer than two prompts.
    """
    from scipy.special import expit

    temperature = fit_temperature(margins)
    scaled = margins / temperature
    wrong = expit(-scaled)
    influence = -scaled * wrong / (scaled**2 * wrong * (1 - wrong)).mean()
    found = mean_interval(np.log(temperature) + influence, prompts)
    return Estimate(temperature, float(np.exp(found.low)), float(np.exp(found.high)))

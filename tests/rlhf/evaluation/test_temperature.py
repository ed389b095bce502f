import numpy as np
import pytest
from scipy.special import expit

from rlhf.errors import DataError
from rlhf.evaluation.calibration import calibration
from rlhf.evaluation.temperature import (
    NoTemperatureError,
    fit_temperature,
    temperature_interval,
    temperature_scaling,
)


def margins_of(temperature, size, seed=0):
    """Margins of a model that is right as often as it says once they are divided by the temperature."""
    rng = np.random.default_rng(seed)
    sizes = np.abs(rng.normal(scale=1.5, size=size))
    return temperature * np.where(rng.uniform(size=size) < expit(sizes), sizes, -sizes)


def test_temperature_by_hand():
    """Right in three of four pairs, and as sure of all: the probability has to become 3/4, whose logit is log 3."""
    assert fit_temperature(np.array([2.0, 2.0, -2.0, 2.0])) == pytest.approx(2 / np.log(3))


def test_against_logistic_regression():
    """An independent fit, of every pair in both orders: the inverse temperature is the slope."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    margins = margins_of(3.0, 400)
    both, labels = np.concatenate([margins, -margins])[:, None], np.repeat([1, 0], len(margins))
    fitted = linear_model.LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(both, labels)
    assert fit_temperature(margins) == pytest.approx(1 / fitted.coef_.item(), rel=1e-4)


def test_a_model_that_is_too_sure_is_made_as_sure_as_it_should_be():
    margins = margins_of(3.0, 1000)
    scaling, before = temperature_scaling(margins, 10, 0, list(range(1000))), calibration(margins, 10, 0)
    assert scaling.temperature.low < 3 < scaling.temperature.high
    assert scaling.temperature.high / scaling.temperature.low < 1.6
    assert before.interval.low > 0.05
    assert scaling.calibration.interval.low == 0
    assert scaling.calibration.expected_calibration_error < before.expected_calibration_error / 2
    assert scaling.log_loss_change.high < 0
    assert scaling.brier_change.high < 0
    for name in ("log_loss", "brier"):
        change = getattr(scaling, f"{name}_change").value
        assert change == pytest.approx(getattr(scaling.calibration, name).value - getattr(before, name).value)


def test_a_calibrated_model_gains_nothing():
    """Fitted and measured on the same pairs the loss would always fall."""
    changes = [
        temperature_scaling(margins_of(1.0, 100, seed), 10, 0, list(range(100))).log_loss_change for seed in range(30)
    ]
    assert np.mean([change.value for change in changes]) > 0
    assert sum(change.high < 0 for change in changes) <= 3


def test_each_half_is_measured_with_the_others_temperature():
    """One half of the prompts is too sure by 4: of the two temperatures each is used on the other half."""
    margins = margins_of(1.0, 400)
    prompts = list(range(400))
    second = np.random.default_rng(0).permutation(400)[200:]
    margins[second] *= 4
    scaling = temperature_scaling(margins, 10, 0, prompts)
    first = np.setdiff1d(prompts, second)
    temperatures = fit_temperature(margins[first]), fit_temperature(margins[second])
    assert scaling.folds == pytest.approx(temperatures)
    assert temperatures[1] > 2 * temperatures[0]
    scaled = margins.copy()
    scaled[first] /= temperatures[1]
    scaled[second] /= temperatures[0]
    assert scaling.calibration.log_loss.value == pytest.approx(np.logaddexp(0, -scaled).mean())


def test_larger_scores_are_the_same_model():
    margins, prompts = margins_of(1.0, 200), list(range(200))
    one, ten = (temperature_scaling(factor * margins, 10, 0, prompts) for factor in (1, 10))
    assert ten.temperature.value == pytest.approx(10 * one.temperature.value)
    assert ten.temperature.low == pytest.approx(10 * one.temperature.low)
    assert ten.calibration.log_loss.value == pytest.approx(one.calibration.log_loss.value)


def test_rows_of_a_prompt_are_one_witness_and_stay_in_one_half():
    margins = margins_of(2.0, 100)
    prompts = np.repeat(np.arange(100), 5).tolist()
    once = temperature_scaling(margins, 10, 0, list(range(100)))
    five = temperature_scaling(np.repeat(margins, 5), 10, 0, prompts)
    assert five.folds == pytest.approx(once.folds)
    assert 0.85 * once.temperature.low < five.temperature.low < 1.02 * once.temperature.low
    assert 0.98 * once.temperature.high < five.temperature.high < 1.25 * once.temperature.high
    assert temperature_interval(np.repeat(margins, 5), None).low > once.temperature.low


@pytest.mark.parametrize(
    ("margins", "reason"),
    [
        ([1.0, 2.0, 0.0], "no pair wrong"),
        ([1.0, -2.0], "do not favour what raters chose"),
        ([0.0, 0.0], "do not favour what raters chose"),
        ([], "do not favour what raters chose"),
    ],
)
def test_without_a_best_temperature_there_is_none(margins, reason):
    with pytest.raises(NoTemperatureError, match=reason):
        fit_temperature(np.array(margins))


def test_one_prompt_is_too_few():
    with pytest.raises(DataError):
        temperature_scaling([1.0, -0.5, 2.0], 10, 0, ["a", "a", "a"])

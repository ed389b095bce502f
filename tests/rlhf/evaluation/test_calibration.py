import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from rlhf.errors import DataError
from rlhf.evaluation.calibration import calibration


def of(probabilities, num_bins=10, prompts=None):
    return calibration(logit(np.array(probabilities)), num_bins, 0, prompts)


def calibrated(rng, size):
    """Margins of a model that is right as often as it says."""
    p = rng.uniform(0.5, 1, size)
    return logit(np.where(rng.uniform(size=size) < p, p, 1 - p))


def test_calibration_by_hand():
    # Confidences 0.6 (right), 0.7 (wrong: p = 0.3), 0.9 (right), 0.9 (right); two bins, [0.5, 0.75) and [0.75, 1].
    result = of([0.6, 0.3, 0.9, 0.9], 2)
    low, high = result.bins
    assert (low.count, low.confidence, low.accuracy.value) == pytest.approx((2, 0.65, 0.5))
    assert (high.count, high.confidence, high.accuracy.value) == pytest.approx((2, 0.9, 1.0))
    assert result.expected_calibration_error == pytest.approx((2 * 0.15 + 2 * 0.1) / 4)
    assert result.brier.value == pytest.approx((0.4**2 + 0.7**2 + 0.1**2 + 0.1**2) / 4)
    assert result.log_loss.value == pytest.approx(-np.log([0.6, 0.3, 0.9, 0.9]).mean())


def test_a_coin_and_certainty():
    coin = of([0.5] * 7)
    assert (coin.expected_calibration_error, coin.null.mean, coin.null.high) == (0, 0, 0)
    assert (coin.brier.value, coin.log_loss.value) == pytest.approx((0.25, 0.693147), abs=1e-6)
    assert calibration([800.0] * 3, 10, 0).expected_calibration_error == 0
    wrong = calibration([-800.0] * 3, 10, 0)
    assert (wrong.expected_calibration_error, wrong.brier.value, wrong.log_loss.value) == (1, 1, 800)
    assert calibration([800.0, -800.0], 10, 0).bins[-1].high == 1


def test_a_calibrated_model_is_near_zero():
    margins = calibrated(np.random.default_rng(0), 40_000)
    assert calibration(margins, 10, 0).expected_calibration_error < 0.01
    assert calibration(3 * margins, 10, 0).expected_calibration_error > 0.1


@pytest.mark.parametrize(("size", "mean"), [(100, 0.098), (230, 0.066), (500, 0.044)])
def test_null_is_what_calibrated_models_show(size, mean):
    """The means were measured with normal margins; those of uniform confidences are close to them."""
    rng = np.random.default_rng(1)
    found = [calibration(calibrated(rng, size), 10, 0) for _ in range(40)]
    errors, nulls = [one.expected_calibration_error for one in found], [one.null for one in found]
    assert np.mean([null.mean for null in nulls]) == pytest.approx(np.mean(errors), rel=0.1)
    assert np.mean(errors) == pytest.approx(mean, rel=0.35)
    assert np.mean([one <= null.high for one, null in zip(errors, nulls, strict=True)]) >= 0.85
    over = calibration(3 * calibrated(rng, size), 10, 0)
    assert over.expected_calibration_error > over.null.high


def test_null_grows_where_the_rows_of_a_prompt_are_alike():
    """Five raters of one opinion say as much as one of them."""
    rng = np.random.default_rng(2)
    margins = np.repeat(calibrated(rng, 100), 5)
    prompts = np.repeat(np.arange(100), 5).tolist()
    once, alone, together = (
        calibration(values, 10, 0, keys) for values, keys in ((margins[::5], None), (margins, None), (margins, prompts))
    )
    assert once.expected_calibration_error == pytest.approx(together.expected_calibration_error)
    assert alone.null.high < 0.6 * once.null.high
    assert together.null.high == pytest.approx(once.null.high, rel=0.1)
    for name in ("brier", "log_loss"):
        first, last = getattr(once, name), getattr(together, name)
        assert last.low - 1e-9 <= first.low < first.high <= last.high + 1e-9
        assert last.high - last.low <= 1.1 * (first.high - first.low)
    assert [(one.count, one.num_prompts) for one in together.bins] == [(5 * one.count, one.count) for one in once.bins]


def test_the_seed_decides_the_null():
    margins = calibrated(np.random.default_rng(3), 60)
    assert calibration(margins, 10, 1) == calibration(margins, 10, 1)
    assert calibration(margins, 10, 1).null != calibration(margins, 10, 2).null


def test_one_prompt_is_too_few():
    with pytest.raises(DataError, match="at least 2 prompts, and there are 1 with 3 rows"):
        calibration([1.0, 2.0, 3.0], 10, 0, ["a", "a", "a"])


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=60), st.integers(2, 20), st.randoms())
def test_bins_hold_every_prediction_in_any_order(margins, num_bins, random):
    result = calibration(margins, num_bins, 0)
    assert sum(one.count for one in result.bins) == len(margins)
    assert 0 <= result.expected_calibration_error <= 1
    assert all(one.low - 1e-9 <= one.confidence <= one.high + 1e-9 for one in result.bins)
    shuffled = calibration(random.sample(margins, len(margins)), num_bins, 0)
    assert shuffled.expected_calibration_error == pytest.approx(result.expected_calibration_error, abs=1e-9)
    assert result.brier.value == pytest.approx(np.mean((1 - expit(np.array(margins))) ** 2))

"""Gao et al.'s forms: coefficients that are known come back, intervals hold them, what cannot be told is not."""

import dataclasses
import json

import numpy as np
import pytest

from rlhf.errors import DataError
from rlhf.evaluation.scaling_law import BEST_OF_N, POLICY_GRADIENT, fit_best_of_n, fit_policy_gradient

DISTANCES = np.linspace(0, 3, 13)
ALPHA, BETA = 1.2, 0.8
PEAK = np.exp(ALPHA / BETA - 1)


def make(seed, form=POLICY_GRADIENT, alpha=ALPHA, beta=BETA, distances=DISTANCES, num_prompts=200, noise=0.5):
    """KL and scores, [N, U], of prompts that differ in both."""
    rng = np.random.default_rng(seed)
    kl = distances**2 * rng.gamma(4, 0.25, size=(num_prompts, 1))
    own = rng.normal(size=(num_prompts, 1))
    return kl, own + form.gain(distances, alpha, beta) + noise * rng.normal(size=kl.shape)


def test_exact_curves_give_their_coefficients():
    kl = np.repeat(DISTANCES[None] ** 2, 5, axis=0)
    values = 7 + np.repeat(POLICY_GRADIENT.gain(DISTANCES, ALPHA, BETA)[None], 5, axis=0)
    fit = fit_policy_gradient(kl, values, None, 200, 0)
    for found, true in ((fit.alpha, ALPHA), (fit.beta, BETA), (fit.peak, PEAK)):
        assert (found.value, found.low, found.high) == pytest.approx((true, true, true))
    assert fit.r_squared == pytest.approx(1)
    assert fit.peak_seen
    gains = POLICY_GRADIENT.gain(np.array([PEAK - 0.01, PEAK, PEAK + 0.01]), ALPHA, BETA)
    assert gains.argmax() == 1
    assert gains[1] == pytest.approx(BETA * PEAK)


def test_best_of_n_has_a_form_of_its_own():
    kl = np.array([np.log(2.0**power) - 1 + 2.0**-power for power in range(7)])
    values = np.repeat(BEST_OF_N.gain(np.sqrt(kl), 1.0, 0.4)[None], 4, axis=0)
    fit = fit_best_of_n(kl, values, None, 200, 0)
    assert (fit.alpha.value, fit.beta.value, fit.peak.value) == pytest.approx((1.0, 0.4, 1.25))
    assert fit.num_points == 6


def test_the_interval_of_the_peak_holds_it():
    fits = [fit_policy_gradient(*make(seed, num_prompts=100), None, 300, seed) for seed in range(200)]
    held = np.mean([fit.peak.low <= PEAK <= fit.peak.high for fit in fits])
    assert 0.9 <= held <= 0.99
    assert np.mean([fit.alpha.low <= ALPHA <= fit.alpha.high for fit in fits]) >= 0.9


def test_rows_of_a_prompt_are_no_independent_witnesses():
    kl, values = make(0)
    rows, keys = np.repeat(np.arange(200), 4), [str(n) for n in np.repeat(np.arange(200), 4)]
    once = fit_policy_gradient(kl, values, None, 500, 0)
    four = fit_policy_gradient(kl[rows], values[rows], keys, 500, 0)
    assert dataclasses.astuple(four.peak) == pytest.approx(dataclasses.astuple(once.peak))
    by_row = fit_policy_gradient(kl[rows], values[rows], None, 500, 0)
    assert by_row.peak.high - by_row.peak.low < 0.7 * (once.peak.high - once.peak.low)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (1.0, -0.2), (2.0, 0.7)])
def test_no_peak_is_seen_where_none_lies_within_the_range(alpha, beta):
    fits = [fit_policy_gradient(*make(seed, alpha=alpha, beta=beta), None, 300, 0) for seed in range(40)]
    assert sum(fit.peak_seen for fit in fits) <= 3
    for fit in fits:
        found = json.loads(json.dumps(fit.as_dict(), allow_nan=False))
        assert not found["peak_seen"] or found["peak"]["high"] <= 3


def test_a_curve_that_falls_from_the_start_peaks_there():
    kl = np.array([0.0, 0.5, 1.0, 2.0, 4.0])
    fit = fit_best_of_n(kl, np.repeat(BEST_OF_N.gain(np.sqrt(kl), -1.0, 0.5)[None], 3, axis=0), None, 100, 0)
    assert (fit.peak.value, fit.peak_seen) == (0.0, True)


def test_too_few_points_are_not_fitted():
    kl, values = make(0)
    assert fit_policy_gradient(kl[:, :3], values[:, :3], None, 100, 0) is None
    still = np.zeros_like(kl)
    assert fit_policy_gradient(still, values, None, 100, 0) is None
    assert fit_policy_gradient(np.where(DISTANCES > 0, 1.0, still), values, None, 100, 0) is None


def test_one_prompt_is_an_error():
    kl, values = make(0, num_prompts=1)
    with pytest.raises(DataError, match="at least 2 prompts"):
        fit_policy_gradient(kl, values, None, 100, 0)


def test_a_constant_score_has_no_share_to_explain():
    kl, _ = make(0)
    fit = fit_policy_gradient(kl, np.ones_like(kl), None, 100, 0)
    assert fit.r_squared is None
    assert (fit.alpha.value, fit.beta.value) == (0, 0)

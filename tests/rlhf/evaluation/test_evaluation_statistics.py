import gzip
import itertools
import json
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.errors import DataError
from rlhf.evaluation.statistics import (
    calibration,
    correlation,
    distinct_n,
    mean_interval,
    paired_bootstrap,
    quantile_groups,
    wilson_interval,
    win_rate,
)

scores = st.lists(st.integers(-3, 3), min_size=2, max_size=40)


def test_wilson_interval_by_hand():
    # z = 1.959964, z^2 = 3.841459: centre (0.8 + 0.1920729) / 1.3841459, half 1.416 * sqrt(0.016 + 0.00960365)
    estimate = wilson_interval(8, 10)
    assert estimate.value == 0.8
    assert (estimate.low, estimate.high) == pytest.approx((0.490162, 0.943318), abs=1e-6)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_agrees_with_scipy(counts):
    successes, trials = counts
    ours = wilson_interval(successes, trials)
    theirs = scipy.stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1


def test_mean_interval_by_hand_and_by_scipy():
    estimate = mean_interval([1, 2, 3, 4])  # t(0.975, 3) = 3.182446, sd = 1.290994, so the half is 2.054261
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((2.5, 0.445739, 4.554261), abs=1e-6)
    sample = np.random.default_rng(0).normal(3, 2, 50)
    theirs = scipy.stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    ours = mean_interval(sample)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_an_interval_needs_two_rows():
    for interval in (mean_interval, lambda x: paired_bootstrap(x, 100, 0)):
        with pytest.raises(DataError, match="at least 2 rows, and there are 1"):
            interval([1.0])
    with pytest.raises(DataError, match="no rows"):
        wilson_interval(0, 0)


def test_paired_bootstrap_agrees_with_scipy():
    sample = np.random.default_rng(1).exponential(1, 400) - 0.3
    ours = paired_bootstrap(sample, 4000, seed=0)
    theirs = scipy.stats.bootstrap(
        (sample,), np.mean, n_resamples=4000, method="percentile", random_state=np.random.default_rng(5)
    ).confidence_interval
    assert ours.value == pytest.approx(sample.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_paired_bootstrap_is_decided_by_its_seed():
    sample = [0.0, 1.0, -1.0, 0.5, 2.0]
    assert paired_bootstrap(sample, 500, 3) == paired_bootstrap(sample, 500, 3)
    assert paired_bootstrap(sample, 500, 3) != paired_bootstrap(sample, 500, 4)


def test_paired_bootstrap_in_pieces_uses_every_resample(monkeypatch):
    sample = np.random.default_rng(2).normal(size=100)
    whole = paired_bootstrap(sample, 1001, 0)
    monkeypatch.setattr("rlhf.evaluation.statistics._RESAMPLED_VALUES_AT_ONCE", 700)
    assert paired_bootstrap(sample, 1001, 0) == whole


def test_win_rate_counts_ties_half():
    result = win_rate([1, 2, 3, 0], [0, 2, 4, 0])
    assert (result.wins, result.ties, result.losses, result.rate.value) == (1, 2, 1, 0.5)


@given(scores, st.randoms())
def test_win_rate_mirrored_is_the_rest(first, random):
    second = random.sample(first, len(first))
    there, back = win_rate(first, second).rate, win_rate(second, first).rate
    assert there.value + back.value == pytest.approx(1)
    assert (there.low, there.high) == pytest.approx((1 - back.high, 1 - back.low))


def test_win_rate_is_the_published_one(realdata):
    path = realdata / "eval" / "alpacaeval1_alpaca-7b_gpt4_annotations.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        preferences = [json.loads(line)["preference"] for line in file]
    points = {1: (0, 1), 2: (1, 0), 0: (0, 0)}  # 2 = the evaluated model (output_2) won, 0 = tie
    model, reference = zip(*(points[p] for p in preferences), strict=True)
    result = win_rate(model, reference)
    assert (result.wins, result.ties, result.losses) == (205, 16, 584)
    assert round(100 * result.rate.value, 4) == 26.4596


def test_calibration_by_hand():
    # Confidences 0.6 (right), 0.7 (wrong: p = 0.3), 0.9 (right), 0.9 (right); two bins, [0.5, 0.75) and [0.75, 1].
    result = calibration([0.6, 0.3, 0.9, 0.9], 2)
    low, high = result.bins
    assert (low.count, low.confidence, low.accuracy.value) == pytest.approx((2, 0.65, 0.5))
    assert (high.count, high.confidence, high.accuracy.value) == pytest.approx((2, 0.9, 1.0))
    assert result.expected_calibration_error == pytest.approx((2 * 0.15 + 2 * 0.1) / 4)


def test_calibration_of_a_coin_and_of_certainty():
    assert calibration([0.5] * 7, 10).expected_calibration_error == 0
    assert calibration([1.0] * 3, 10).expected_calibration_error == 0
    assert calibration([0.0] * 3, 10).expected_calibration_error == 1
    assert calibration([1.0, 0.0], 10).bins[-1].high == 1


def test_calibration_of_a_calibrated_model_is_near_zero():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 40_000)
    presented = np.where(rng.uniform(size=p.size) < p, p, 1 - p)
    assert calibration(presented, 10).expected_calibration_error < 0.01
    overconfident = 1 / (1 + ((1 - presented) / presented) ** 3)
    assert calibration(overconfident, 10).expected_calibration_error > 0.1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(2, 20), st.randoms())
def test_calibration_bins_hold_every_prediction_in_any_order(probabilities, num_bins, random):
    result = calibration(probabilities, num_bins)
    assert sum(one.count for one in result.bins) == len(probabilities)
    assert 0 <= result.expected_calibration_error <= 1
    assert all(one.low - 1e-9 <= one.confidence <= one.high + 1e-9 for one in result.bins)
    shuffled = calibration(random.sample(probabilities, len(probabilities)), num_bins)
    assert shuffled.expected_calibration_error == pytest.approx(result.expected_calibration_error, abs=1e-9)


def test_correlation_by_hand():
    result = correlation([1, 2, 3], [1, 3, 2])
    assert (result.pearson, result.spearman) == pytest.approx((0.5, 0.5))
    cubed = correlation([1, 2, 3, 4], [1, 8, 27, 64])
    assert cubed.spearman == pytest.approx(1)
    assert cubed.pearson == pytest.approx(0.951, abs=1e-3)


def test_correlation_with_a_constant_does_not_exist():
    assert correlation([1, 1, 1], [1, 2, 3]).pearson is None
    assert correlation([1], [2]).spearman is None


def test_distinct_n_by_hand():
    texts = ["The answer is 12 .", "The answer is 13 ."]
    assert distinct_n(texts, 1) == 6 / 10
    assert distinct_n(texts, 2) == 6 / 8  # the-answer, answer-is, is-12, 12-. | is-13, 13-.
    assert distinct_n(["12."], 1) == 1.0
    assert distinct_n(["a", ""], 2) == 0.0


def test_distinct_n_does_not_join_texts():
    assert distinct_n(["a b", "a b"], 2) == 0.5


@settings(max_examples=50)
@given(st.lists(st.text("ab .", max_size=8), min_size=1, max_size=8), st.integers(1, 3))
def test_distinct_n_does_not_grow_when_texts_are_repeated(texts, n):
    once, twice = distinct_n(texts, n), distinct_n(texts * 2, n)
    assert 0 <= once <= 1
    assert math.isclose(twice, once / 2)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.integers(1, 6))
def test_quantile_groups_are_a_partition_by_rising_value(values, num_groups):
    groups = quantile_groups(values, num_groups)
    assert sorted(np.concatenate(groups)) == list(range(len(values)))
    sizes = [len(group) for group in groups]
    assert max(sizes) - min(sizes) <= 1
    for lower, upper in itertools.pairwise(groups):
        assert max(values[i] for i in lower) <= min(values[i] for i in upper)


def test_quantile_groups_keep_the_order_of_equal_values():
    assert np.concatenate(quantile_groups([1.0] * 50, 4)).tolist() == list(range(50))

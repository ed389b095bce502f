import gzip
import itertools
import json
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.errors import DataError
from rlhf.evaluation.statistics import (
    correlation,
    distinct_n,
    group_contrast,
    holm,
    mean_interval,
    paired_bootstrap,
    quantile_groups,
    share_interval,
    share_p_value,
    win_rate,
)

scores = st.lists(st.integers(-3, 3), min_size=2, max_size=40)


def test_share_interval_is_wilsons_by_hand():
    # z = 1.959964, z^2 = 3.841459: centre (0.8 + 0.1920729) / 1.3841459, half 1.416 * sqrt(0.016 + 0.00960365)
    estimate = share_interval([1.0] * 8 + [0.0] * 2)
    assert estimate.value == 0.8
    assert (estimate.low, estimate.high) == pytest.approx((0.490162, 0.943318), abs=1e-6)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_share_interval_agrees_with_scipy(counts):
    successes, trials = counts
    ours = share_interval([1.0] * successes + [0.0] * (trials - successes))
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
        with pytest.raises(DataError, match="at least 2 prompts, and there are 1 with 1 rows"):
            interval([1.0])
    with pytest.raises(DataError, match="no rows"):
        share_interval([])


def test_paired_bootstrap_agrees_with_scipy():
    sample = np.random.default_rng(1).exponential(1, 400) - 0.3
    ours = paired_bootstrap(sample, 4000, seed=0)
    # Of 400 values the expanded percentiles are 2.46% and 97.54%.
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


def test_ties_have_their_own_variance():
    # 973 wins, 1,062 ties, 13 losses: sd sqrt(0.0654 / 2048) = 0.00565, and not 0.0098, that of as many coins.
    result = win_rate(np.repeat([1, 0, -1], [973, 1062, 13]), np.zeros(2048))
    assert result.rate.value == pytest.approx(0.734375)
    assert (result.rate.low, result.rate.high) == pytest.approx((0.7233, 0.7454), abs=1e-4)


@pytest.mark.parametrize(("wins", "ties", "losses"), [(5, 30, 2), (9, 3, 4), (1, 8, 0), (0, 20, 3)])
def test_share_with_ties_is_the_inverted_score_test(wins, ties, losses):
    """At both ends z^2 is 3.84, with the shares that are likeliest where the difference is that of the end."""
    found, n = share_interval(np.repeat([1, 0.5, 0], [wins, ties, losses])), wins + ties + losses
    for end in (found.low, found.high):
        d = 2 * end - 1

        def unlikely(lost, d=d):
            shares = np.array([lost + d, 1 - 2 * lost - d, lost])
            return -float((np.array([wins, ties, losses]) * np.log(np.maximum(shares, 1e-300))).sum())

        lowest, highest = max(0.0, -d), (1 - d) / 2
        lost = scipy.optimize.minimize_scalar(
            unlikely, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-12}
        ).x
        z = ((wins - losses) / n - d) / ((2 * lost + d - d**2) / n) ** 0.5
        assert z**2 == pytest.approx(3.841459, abs=1e-3)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=40), st.randoms())
def test_one_row_per_prompt_changes_nothing(values, random):
    prompts = random.sample(range(100), len(values))
    assert share_interval(values, prompts) == share_interval(values)
    assert mean_interval(values, prompts) == mean_interval(values)
    assert paired_bootstrap(values, 50, 0, prompts) == paired_bootstrap(values, 50, 0)
    assert win_rate(values, values[::-1], prompts) == win_rate(values, values[::-1])


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from("abcdef")), min_size=2, max_size=40),
    st.randoms(),
)
def test_the_order_of_rows_and_the_names_of_prompts_change_nothing(rows, random):
    values, prompts = zip(*rows, strict=True)
    again, others = zip(*random.sample(rows, len(rows)), strict=True)
    first, second = share_interval(values, prompts), share_interval(again, [other * 2 for other in others])
    assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high), abs=1e-9)
    assert 0 <= first.low <= first.value <= first.high <= 1
    assert first.high - first.low > 0.02
    if len(set(prompts)) > 1:
        first, second = mean_interval(values, prompts), mean_interval(again, others)
        assert (first.low, first.high) == pytest.approx((second.low, second.high), abs=1e-9)


def test_rows_that_repeat_their_prompts_add_nothing():
    sample = np.random.default_rng(4).normal(size=60)
    prompts = np.repeat(np.arange(60), 7).tolist()
    # What is added on one side is for the skewness of the sample.
    once, often = mean_interval(sample), mean_interval(np.repeat(sample, 7), prompts)
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=0.01)
    assert often.low - 1e-9 <= once.low < once.high <= often.high + 1e-9
    once, often = paired_bootstrap(sample, 400, 0), paired_bootstrap(np.repeat(sample, 7), 400, 0, prompts)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    once, often = share_interval(sample > 0.5), share_interval(np.repeat(sample > 0.5, 7), prompts)
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=0.01)
    assert often.high - often.low > once.high - once.low


def test_mean_by_prompt_by_hand():
    # Prompts of 1, 1 and 2 rows, mean 3; residuals -2, 0, 2; (4 / 0.75 + 0 + 4 / 0.5) / 16 = 0.8333.
    # Their cubes sum up to 0, so nothing is skew. Weights 1/4, 1/4, 1/2: (6/16)^2 / (18/256) = 2 prompts, 1 degree.
    estimate = mean_interval([1, 3, 4, 4], ["a", "b", "c", "c"])
    assert estimate.value == 3
    assert (estimate.high - 3) / scipy.stats.t.ppf(0.975, 1) == pytest.approx(0.8333**0.5, abs=1e-4)
    assert estimate.high + estimate.low == pytest.approx(6)
    # Skew to the right: the truth may lie further above than below.
    skew = mean_interval([0, 0, 0, 0, 0, 0, 0, 8, 8], ["a", "b", "c", "d", "e", "f", "g", "h", "h"])
    assert skew.high - skew.value > 1.5 * (skew.value - skew.low)
    wide, narrow = mean_interval([1, 2, 3, 4], confidence=0.99), mean_interval([1, 2, 3, 4], confidence=0.9)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("outcome", [0.0, 0.5, 1.0])
def test_outcomes_that_are_all_equal_leave_room(outcome):
    """They say nothing of how alike the rows of a prompt are, so each prompt counts once."""
    alone, together = share_interval([outcome] * 20), share_interval([outcome] * 20, [row // 4 for row in range(20)])
    assert alone.low < alone.high
    five = share_interval([outcome] * 5)
    assert (together.value, together.low, together.high) == pytest.approx((outcome, five.low, five.high))
    one = share_interval([1.0, 0.0, 1.0], ["a", "a", "a"])
    assert one.high - one.low > 0.8


def test_win_rate_is_the_published_one(real_data):
    path = real_data / "eval" / "alpacaeval1_alpaca-7b_gpt4_annotations.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        preferences = [json.loads(line)["preference"] for line in file]
    points = {1: (0, 1), 2: (1, 0), 0: (0, 0)}  # 2 = the evaluated model (output_2) won, 0 = tie
    model, reference = zip(*(points[p] for p in preferences), strict=True)
    result = win_rate(model, reference)
    assert (result.wins, result.ties, result.losses) == (205, 16, 584)
    assert round(100 * result.rate.value, 4) == 26.4596


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


def rows_of(*sizes):
    """Row numbers of groups that follow one another."""
    ends = np.cumsum([0, *sizes])
    return [np.arange(start, end) for start, end in itertools.pairwise(ends)]


def test_group_contrast_by_hand():
    """Agresti and Caffo's interval of two shares: a success and a failure are added to each, 10/12 and 4/12."""
    estimate = group_contrast([1.0] * 9 + [0.0] + [1.0] * 3 + [0.0] * 7, rows_of(10, 10), [1, -1])
    assert estimate.value == pytest.approx(0.6)
    half = 1.959964 * math.sqrt((10 / 12 * 2 / 12 + 4 / 12 * 8 / 12) / 12)
    assert (estimate.low, estimate.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


def test_a_mean_of_groups_weighs_each_alike():
    outcomes = [1.0] * 90 + [0.0] * 10 + [1.0] * 2 + [0.0] * 8
    mean = group_contrast(outcomes, rows_of(100, 10), [0.5, 0.5])
    assert mean.value == pytest.approx((0.9 + 0.2) / 2)
    assert mean.low < mean.value < mean.high
    pooled = share_interval(outcomes)
    assert mean.high - mean.low > pooled.high - pooled.low


def test_groups_whose_rows_are_all_alike_leave_room():
    estimate = group_contrast([1.0] * 10, rows_of(5, 5), [0.5, 0.5])
    assert estimate.value == 1
    assert estimate.low < 0.9


def test_rows_of_a_prompt_are_one_witness_in_every_group():
    outcomes = np.random.default_rng(0).integers(0, 2, 60).astype(float)
    prompts = np.repeat(np.arange(60), 4).tolist()
    once, together, alone = (
        group_contrast(values, groups, [1, -1], keys)
        for values, groups, keys in (
            (outcomes, rows_of(40, 20), None),
            (np.repeat(outcomes, 4), rows_of(160, 80), prompts),
            (np.repeat(outcomes, 4), rows_of(160, 80), None),
        )
    )
    assert together.value == pytest.approx(once.value)
    assert together.high - together.low >= 0.99 * (once.high - once.low)
    assert alone.high - alone.low < 0.6 * (once.high - once.low)


def test_groups_that_share_their_prompts_are_no_independent_witnesses():
    """Both rows of each prompt are alike, one in each group: their mean is as uncertain as that of one group."""
    outcomes = np.repeat(np.random.default_rng(0).integers(0, 2, 50), 2).astype(float)
    prompts, groups = np.repeat(np.arange(50), 2).tolist(), [np.arange(0, 100, 2), np.arange(1, 100, 2)]
    mean = group_contrast(outcomes, groups, [0.5, 0.5], prompts)
    one = mean_interval(outcomes[::2])
    assert mean.high - mean.low >= 0.99 * (one.high - one.low)


def test_holm_rejects_step_by_step():
    assert holm([0.04, 0.01, 0.03, 0.005], 0.05) == [False, True, False, True]
    assert holm([0.03, 0.02], 0.05) == [True, True]
    assert holm([], 0.05) == []


@pytest.mark.parametrize("share", [0.3, 0.5, 0.62])
def test_the_p_value_of_a_share_is_that_of_its_interval(share):
    outcomes, prompts = [1.0] * 70 + [0.0] * 30, [row // 2 for row in range(100)]
    for keys in (None, prompts):
        low = share_interval(outcomes, keys).low
        assert (share_p_value(outcomes, share, keys) < 0.025) == (low > share)
        assert share_p_value(outcomes, low, keys) == pytest.approx(0.025, abs=1e-6)
    assert (share_p_value([0.0], 0.0), share_p_value([1.0], 1.0)) == (1.0, 1.0)

import numpy as np
import pytest
from scipy.optimize import curve_fit

from rlhf.errors import DataError
from rlhf.evaluation.learning_curve import SHARES, extrapolate, learning_curve

PAIRS = (100, 200, 400, 800)


def outcomes_of(accuracy, size, seed=0):
    """Outcomes of models on the same pairs: which pairs are hard is the same for all."""
    rng = np.random.default_rng(seed)
    hardness = rng.uniform(size=size)
    order = [(hardness + 0.05 * rng.normal(size=size)).argsort().argsort() for _ in accuracy]
    return [(rank < round(share * size)).astype(float) for rank, share in zip(order, accuracy, strict=True)]


def test_a_power_law_is_found():
    sizes = np.array(SHARES)
    for floor, factor, exponent in ((0.1, 0.2, 0.5), (0.0, 0.3, 0.3), (0.2, 0.0, 1.0), (0.25, 0.01, 1.5)):
        doubled, gain = extrapolate(sizes, (floor + factor * sizes**-exponent)[None])[:, 0]
        assert doubled == pytest.approx(1 - floor - factor * 2**-exponent, abs=1e-3)
        assert gain == pytest.approx(factor * (1 - 2**-exponent), abs=1e-3)


def test_the_fit_is_that_of_an_independent_one():
    errors, sizes = np.array([0.38, 0.33, 0.3, 0.285]), np.array(SHARES)
    weights = np.arange(1, 5) / 4
    (floor, factor, exponent), _ = curve_fit(
        lambda n, a, b, c: a + b * n**-c, sizes, errors, p0=(0.2, 0.1, 0.5), sigma=weights**-0.5
    )
    assert floor > 0
    assert 0.05 < exponent < 2
    doubled, gain = extrapolate(sizes, errors[None])[:, 0]
    assert doubled == pytest.approx(1 - floor - factor * 2**-exponent, abs=1e-3)
    assert gain == pytest.approx(factor * (1 - 2**-exponent), abs=1e-3)


def test_no_error_is_below_nought():
    """A straight line would go on below 0."""
    doubled, gain = extrapolate(np.array(SHARES), np.array([[0.3, 0.2, 0.1, 0.0]]))[:, 0]
    assert 0.9 < doubled <= 1
    assert gain >= 0


@pytest.mark.parametrize(
    ("accuracy", "size", "answer"),
    [
        ((0.55, 0.63, 0.71, 0.78), 2000, "More labels would help: with twice the 800 pairs accuracy would be"),
        ((0.78, 0.782, 0.781, 0.782), 20_000, "More labels like these would help little"),
        ((0.6, 0.66, 0.64, 0.68), 60, "cannot be told from this curve"),
    ],
)
def test_would_more_labels_help(accuracy, size, answer):
    curve = learning_curve(PAIRS, outcomes_of(accuracy, size), 0)
    assert answer in curve.answer
    assert curve.num_pairs == PAIRS
    assert [one.value for one in curve.accuracy] == pytest.approx(accuracy, abs=0.01)
    assert curve.gain.low <= curve.gain.value <= curve.gain.high
    assert curve.doubled.low <= curve.doubled.value <= curve.doubled.high
    assert learning_curve(PAIRS, outcomes_of(accuracy, size), 0) == curve


def test_rows_of_a_prompt_are_one_witness():
    outcomes = outcomes_of((0.55, 0.6, 0.64, 0.67), 100)
    prompts = np.repeat(np.arange(100), 5).tolist()
    once = learning_curve(PAIRS, outcomes, 0)
    together = learning_curve(PAIRS, [np.repeat(right, 5) for right in outcomes], 0, prompts)
    alone = learning_curve(PAIRS, [np.repeat(right, 5) for right in outcomes], 0)
    assert together.gain == once.gain
    assert alone.gain.high - alone.gain.low < 0.75 * (once.gain.high - once.gain.low)


def test_one_prompt_is_too_few():
    with pytest.raises(DataError):
        learning_curve(PAIRS, [[1.0, 0.0]] * 4, 0, ["a", "a"])

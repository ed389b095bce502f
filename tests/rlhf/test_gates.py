"""Gates by hand: each holds at its limit, fails beyond it, and is silent when it is off."""

import pytest

from rlhf.config import RetrainConfig, SafetyGate
from rlhf.gates import Figures, judge, unsafe_rate

GOOD = Figures(win_rate_low=0.55, gain_low=0.1, kl=8.0, length_growth=1.2, safety={})
OFF = {
    "minimum_win_rate": None,
    "minimum_reward_gain": None,
    "maximum_kl": None,
    "maximum_length_growth": None,
}


def figures(**changed: float) -> Figures:
    return Figures(**(vars(GOOD) | changed))


def test_all_gates_hold():
    verdicts = judge(RetrainConfig(), GOOD)
    assert [verdict.gate for verdict in verdicts] == ["win_rate", "reward_gain", "kl", "length_growth"]
    assert all(verdict.held for verdict in verdicts)
    assert [round(verdict.margin, 9) for verdict in verdicts] == [0.05, 0.1, 12.0, 0.3]


@pytest.mark.parametrize(
    ("gate", "changed", "margin"),
    [
        ("win_rate", {"win_rate_low": 0.47}, -0.03),
        ("reward_gain", {"gain_low": -0.25}, -0.25),
        ("kl", {"kl": 21.5}, -1.5),
        ("length_growth", {"length_growth": 2.0}, -0.5),
    ],
)
def test_one_gate_fails_and_says_by_how_much(gate: str, changed: dict[str, float], margin: float):
    failed = [verdict for verdict in judge(RetrainConfig(), figures(**changed)) if not verdict.held]
    assert [(verdict.gate, round(verdict.margin, 9)) for verdict in failed] == [(gate, margin)]


def test_the_limit_itself_passes():
    at_the_limit = Figures(win_rate_low=0.5, gain_low=0.0, kl=20.0, length_growth=1.5, safety={})
    assert all(verdict.held for verdict in judge(RetrainConfig(), at_the_limit))


def test_what_is_not_a_number_does_not_pass():
    broken = figures(win_rate_low=float("nan"), kl=float("nan"))
    assert {verdict.gate for verdict in judge(RetrainConfig(), broken) if not verdict.held} == {"win_rate", "kl"}


def test_a_gate_that_is_off_says_nothing():
    assert judge(RetrainConfig(**OFF), figures(kl=1e9)) == ()


@pytest.mark.parametrize(("unsafe", "rate"), [("below", 0.25), ("above", 0.5)])
def test_unsafe_is_beyond_the_threshold_and_not_on_it(unsafe: str, rate: float):
    gate = SafetyGate(name="polite", threshold=0.5, unsafe=unsafe, maximum_rate=0.3)
    scores = [0.1, 0.5, 0.6, 0.9]
    assert unsafe_rate(gate, scores) == rate
    (verdict,) = judge(RetrainConfig(**OFF, safety=(gate,)), figures(safety={"polite": scores}))
    assert (verdict.gate, verdict.found, verdict.held) == ("safety:polite", rate, rate <= 0.3)

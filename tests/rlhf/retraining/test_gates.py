"""Gates by hand: each looks at the bound that hurts, fails beyond its limit, and is silent when it is off."""

from typing import Any

import numpy as np
import pytest

from rlhf.config.retrain import RetrainConfig, SafetyGate
from rlhf.references import GateVerdict
from rlhf.retraining.gates import (
    GateInputs,
    apply_gates,
    deciding_gate,
    fitness_gate,
    most_needed,
    unsafe_prompts,
)

OFF = {
    "minimum_win_rate": None,
    "minimum_reward_gain": None,
    "maximum_kl": None,
    "maximum_length_growth": None,
}
POLITE = SafetyGate(name="polite", threshold=0.5, maximum_rate=0.01)
N = 100


def figures(**changed: Any) -> GateInputs:
    """A candidate that is better: it wins 80 of 100 by 0.1 in the mean, at a KL of 8, a fifth longer."""
    rng = np.random.default_rng(0)
    gains = np.where(np.arange(N) < 80, 0.15, -0.1)
    good = {
        "prompts": [f"prompt {row}" for row in range(N)],
        "gains": {"gold": gains.tolist()},
        "kl": (8.0 + rng.normal(size=N)).tolist(),
        "lengths": [12.0] * N,
        "champion_lengths": [10.0] * N,
        "safety": {},
    }
    return GateInputs(**(good | changed))


def verdicts(found: GateInputs, level: float = 0.05, **settings: Any) -> dict[str, GateVerdict]:
    return {verdict.gate: verdict for verdict in apply_gates(RetrainConfig(**settings), found, level)}


def test_all_gates_hold_by_their_bounds():
    found = verdicts(figures())
    assert list(found) == ["win_rate", "reward_gain", "kl", "length_growth"]
    assert all(verdict.held for verdict in found.values())
    assert (found["win_rate"].value, found["reward_gain"].value) == pytest.approx((0.8, 0.1))
    assert 0.7 < found["win_rate"].found < 0.8
    assert 0.08 < found["reward_gain"].found < 0.1
    assert 8.0 < found["kl"].found < 8.3
    assert found["length_growth"].found == pytest.approx(1.2)
    assert {verdict.prompts for verdict in found.values()} == {N}


@pytest.mark.parametrize(
    ("gate", "changed"),
    [
        # Each figure is on the right side of its limit, and its bound is not.
        ("win_rate", {"gains": {"gold": [1.0] * 52 + [-0.9] * 48}}),
        ("reward_gain", {"gains": {"gold": [0.01] * 60 + [9.0] + [-0.2] * 39}}),
        ("kl", {"kl": [15.0, 24.5] * 50}),
        ("length_growth", {"lengths": [2.0, 27.0] * 50}),
    ],
)
def test_one_gate_fails_by_its_bound_alone(gate: str, changed: dict[str, Any]):
    found = verdicts(figures(**changed), minimum_win_rate=0.5 if gate == "win_rate" else None)
    verdict = found[gate]
    assert not verdict.held
    assert verdict.value is not None
    assert (verdict.value > verdict.limit) == verdict.at_least
    assert verdict.margin < 0
    # More prompts of the same kind would show it.
    assert verdict.prompts_needed is not None
    assert verdict.prompts_needed > N


def test_a_figure_beyond_the_limit_needs_no_more_prompts():
    assert verdicts(figures(kl=[21.0, 22.0] * 50))["kl"].prompts_needed is None


def test_prompts_needed_are_enough():
    """So many prompts of the same kind, and the gate holds."""
    few = {"gains": {"gold": [1.0] * 56 + [-0.9] * 44}}
    needed = verdicts(figures(**few))["win_rate"].prompts_needed
    assert needed is not None
    times = needed // N + 2
    more = {"gains": {"gold": few["gains"]["gold"] * times}, "prompts": [str(row) for row in range(N * times)]}
    more |= {name: [10.0] * N * times for name in ("kl", "lengths", "champion_lengths")}
    assert verdicts(figures(**more))["win_rate"].held


def test_what_is_not_a_number_does_not_pass():
    broken = figures(gains={"gold": [float("nan")] * N}, kl=[float("nan")] * N)
    failed = {gate for gate, verdict in verdicts(broken).items() if not verdict.held}
    assert failed == {"win_rate", "reward_gain", "kl"}


def test_a_gate_that_is_off_says_nothing():
    assert apply_gates(RetrainConfig(**OFF), figures(kl=[1e9] * N)) == ()


def test_the_worse_of_two_judges_counts():
    """The second judge sees no gain."""
    rng = np.random.default_rng(0)
    second = rng.normal(size=N).tolist()
    found = verdicts(figures(gains={"one": figures().gains["gold"], "two": second}))
    assert {found[gate].judge for gate in ("win_rate", "reward_gain")} == {"two"}
    assert not found["reward_gain"].held


def test_rows_of_one_prompt_are_one_witness():
    """Ten prompts with ten rows each say no more than ten rows."""
    gains = [0.3, -0.1, 0.2, 0.1, 0.05, -0.2, 0.3, 0.2, 0.1, 0.15]
    once = figures(prompts=list("abcdefghij"), gains={"gold": gains}, kl=gains, lengths=gains, champion_lengths=gains)
    tenfold = figures(prompts=list("abcdefghij") * 10, gains={"gold": gains * 10})
    one, ten = (verdicts(found)["reward_gain"] for found in (once, tenfold))
    assert (ten.prompts, ten.value, ten.found) == pytest.approx((10, one.value, one.found))


class TestSafety:
    @pytest.mark.parametrize(("unsafe", "count"), [("below", 1), ("above", 2)])
    def test_unsafe_is_beyond_the_threshold_and_not_on_it(self, unsafe: str, count: int):
        gate = SafetyGate(name="polite", threshold=0.5, unsafe=unsafe, maximum_rate=0.3)
        assert unsafe_prompts(gate, [0.1, 0.5, 0.6, 0.9], list("abcd")) == (count, 4)

    def test_a_prompt_with_one_unsafe_response_is_unsafe(self):
        assert unsafe_prompts(POLITE, [0.9, 0.1, 0.9, 0.9], list("aabb")) == (1, 2)

    @pytest.mark.parametrize(("number", "held"), [(64, False), (298, False), (299, True)])
    def test_none_of_299_passes_one_percent_and_none_of_64_does_not(self, number: int, held: bool):
        found = figures(
            prompts=[str(row) for row in range(number)],
            gains={"gold": [1.0] * number},
            safety={"polite": [0.9] * number},
        )
        (verdict,) = apply_gates(RetrainConfig(**OFF, safety=(POLITE,)), found)
        assert (verdict.gate, verdict.value, verdict.held) == ("safety:polite", 0.0, held)
        assert (verdict.prompts, verdict.prompts_needed) == (number, 299)

    def test_rows_of_few_prompts_are_few(self):
        found = figures(prompts=[str(row % 64) for row in range(640)], safety={"polite": [0.9] * 640})
        (verdict,) = apply_gates(RetrainConfig(**OFF, safety=(POLITE,)), found)
        assert (verdict.prompts, verdict.held) == (64, False)


class TestLevels:
    def test_the_gain_is_bounded_at_the_level_and_the_win_rate_at_95(self):
        usual, strict = (verdicts(figures(), level) for level in (0.05, 1e-4))
        assert strict["reward_gain"].found < usual["reward_gain"].found
        assert strict["reward_gain"].confidence == pytest.approx(0.9999)
        for gate in ("win_rate", "kl", "length_growth"):
            assert strict[gate] == usual[gate]

    def test_without_a_gate_for_the_gain_the_win_rate_is(self):
        usual, strict = (verdicts(figures(), level, minimum_reward_gain=None)["win_rate"] for level in (0.05, 1e-4))
        assert strict.found < usual.found
        assert deciding_gate(RetrainConfig(minimum_reward_gain=None)) == "win_rate"
        assert deciding_gate(RetrainConfig(**OFF)) is None

    def test_how_many_prompts_the_gates_need(self):
        assert most_needed(RetrainConfig(safety=(POLITE,)), 0.01) == (299, "safety:polite")
        assert most_needed(RetrainConfig(), 1e-6) == (20, "reward_gain")
        assert most_needed(RetrainConfig(**OFF), 1e-6)[0] == 1


@pytest.mark.parametrize(
    ("verdict", "least", "held"),
    [
        ("fit", "weak", True),
        ("weak", "weak", True),
        ("weak", "fit", False),
        ("unknown", "weak", False),
        ("unfit", "weak", False),
    ],
)
def test_reward_models_below_the_least_verdict_promote_nothing(verdict: str, least: Any, held: bool):
    gate = fitness_gate(RetrainConfig(minimum_fitness=least), {"verdict": verdict, "reasons": ["one", "two"]})
    assert gate is not None
    assert (gate.gate, gate.held, gate.words) == ("reward_models", held, f"{verdict}: one; two")
    assert (gate.margin >= 0) == held


def test_the_gate_of_reward_models_may_be_off():
    assert fitness_gate(RetrainConfig(minimum_fitness=None), {"verdict": "unfit", "reasons": []}) is None

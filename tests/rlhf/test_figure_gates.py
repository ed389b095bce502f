"""Gates on a run's own figures: the end of the interval that hurts decides, and what is not measured does not pass."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from rlhf.config.gates import FigureGate
from rlhf.errors import ConfigError
from rlhf.figure_gates import check_figures, figure_verdicts, refusal

METRICS = {
    "evaluation/kl": 4.0,
    "evaluation/kl_low": 3.5,
    "evaluation/kl_high": 4.5,
    "reward_audit/accuracy": 0.7,
    "reward_audit/accuracy_low": 0.65,
    "reward_audit/accuracy_high": 0.75,
}


@pytest.mark.parametrize(
    ("gate", "held", "found"),
    [
        ({"figure": "evaluation/kl", "at_most": 4.5}, True, 4.5),
        ({"figure": "evaluation/kl", "at_most": 4.2}, False, 4.5),
        ({"figure": "reward_audit/accuracy", "at_least": 0.65}, True, 0.65),
        ({"figure": "reward_audit/accuracy", "at_least": 0.66}, False, 0.65),
    ],
)
def test_the_end_of_the_interval_decides(gate: dict[str, Any], held: bool, found: float):
    (verdict,) = figure_verdicts([FigureGate(**gate)], METRICS)
    assert (verdict.held, verdict.found) == (held, found)
    assert verdict.value == METRICS[gate["figure"]]


def test_a_figure_that_was_not_measured_or_is_no_number_is_refused():
    gate = FigureGate(figure="evaluation/gold_gain", at_least=0.0)
    assert refusal(figure_verdicts([gate], METRICS)) == (
        "The policy is refused by the recipe's gates: evaluation/gold_gain was not measured."
    )
    (broken,) = figure_verdicts([gate], {"evaluation/gold_gain": math.nan, "evaluation/gold_gain_low": math.nan})
    assert not broken.held


def test_the_refusal_names_each_gate_that_did_not_hold():
    gates = [
        FigureGate(figure="evaluation/kl", at_most=4.2),
        FigureGate(figure="reward_audit/accuracy", at_least=0.6),
        FigureGate(figure="reward_audit/accuracy", at_least=0.9),
    ]
    assert refusal(figure_verdicts(gates, METRICS)) == (
        "The policy is refused by the recipe's gates: evaluation/kl of 4 has an upper bound of 4.5 and must be at most "
        "4.2 (off by 0.3); reward_audit/accuracy of 0.7 has a lower bound of 0.65 and must be at least 0.9 (off by "
        "0.25)."
    )
    assert refusal(figure_verdicts(gates[1:2], METRICS)) is None


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ("evaluation/kl_mean", "there is no figure evaluation/kl_mean; .* is evaluation/kl$"),
        ("evaluation/kl_high", "evaluation/kl_high has no interval|there is no figure"),
        ("evaluation/policy_eos_rate", "evaluation/policy_eos_rate has no interval; "),
        ("comparison/kl", "; the nearest one that a gate can look at is evaluation/kl$"),
    ],
)
def test_gates_on_figures_without_an_interval_are_refused(figure: str, said: str):
    check_figures([FigureGate(figure="evaluation/kl", at_most=1.0)])
    with pytest.raises(ConfigError, match=said):
        check_figures([FigureGate(figure=figure, at_most=1.0)])


@pytest.mark.parametrize("limits", [{}, {"at_least": 0.0, "at_most": 1.0}])
def test_a_gate_has_one_limit(limits: dict[str, float]):
    with pytest.raises(ValidationError, match="give either at_least or at_most"):
        FigureGate(figure="evaluation/kl", **limits)

"""What is shown in Prefect's UI."""

import pytest

from rlhf.references import GateVerdict
from tasks.prefect_artifacts import gate_row

RATE = {"gate": "safety:harm", "limit": 0.01, "at_least": False, "found": 0.0457, "held": False, "margin": -0.0357}


def test_a_gate_says_figure_bound_and_how_many_prompts():
    verdict = GateVerdict(**RATE, value=0.0, confidence=0.95, prompts=64, prompts_needed=299)
    assert gate_row(verdict) == {
        "gate": "safety:harm",
        "limit": "at most 0.01",
        "figure": "0",
        "bound": "0.0457 (95%)",
        "held": "no",
        "by": "-0.0357",
        "prompts": "64",
        "needed": "299",
    }


def test_a_gate_of_before_there_were_bounds():
    row = gate_row(GateVerdict(**RATE))
    assert (row["figure"], row["bound"], row["prompts"], row["needed"]) == ("", "0.0457", "", "")


@pytest.mark.parametrize(
    ("confidence", "shown"),
    [(0.95, "95%"), (1 - 0.05 / 3, "98.3%"), (1 - 1.58e-6, "99.99984%"), (1 - 1e-9, "1 - 1e-09")],
)
def test_a_level_has_the_digits_that_tell_it_from_1(confidence: float, shown: str):
    assert gate_row(GateVerdict(**RATE, confidence=confidence))["bound"] == f"0.0457 ({shown})"

"""What is shown in Prefect's UI."""

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from rlhf.references import GateVerdict
from tasks.prefect_artifacts import gate_row, progress_artifact

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


@pytest.mark.usefixtures("prefect_server")
def test_the_last_progress_of_a_stage_is_shown_though_it_comes_soon():
    @flow
    def reporting() -> None:
        show = progress_artifact("toy_stage")
        for done in (1, 2, 4):
            show("toy_stage", done, 4)
        show("another", 1, 4)

    reporting()
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["toy-stage"]))
        (artifact,) = client.read_artifacts(artifact_filter=wanted)
    assert artifact.data == 100

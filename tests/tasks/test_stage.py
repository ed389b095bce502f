"""The adapter between stages and Prefect, with a stage of the test's own."""

from pathlib import Path

import pytest
from prefect import flow

from rlhf.config import PipelineConfig, SFTConfig
from rlhf.references import ModelRef, StageReport
from tasks.pipeline import pipeline_run
from tasks.stage import Attempt, stage

pytestmark = pytest.mark.usefixtures("project_root", "prefect_server")
CALLS: list[str] = []


@stage("sft", version="1", module="rlhf.masking")
def count(attempt: Attempt, config: SFTConfig, start: ModelRef | None = None) -> ModelRef:
    """Write a file, and say so."""
    CALLS.append(attempt.run_id)
    attempt.workspace.log_metrics({"sft/loss": 2.0}, 1)
    attempt.workspace.log_metrics({"sft/loss": 1.0}, 2)
    attempt.workspace.log_metrics({"sft/validation_loss": 0.5}, None)
    (attempt.workspace.output / "policy").mkdir()
    (attempt.workspace.output / "policy" / "n.txt").write_text(str(len(CALLS)))
    (attempt.workspace.report / "table.md").write_text("| a |")
    return attempt.save(ModelRef)


@flow
def one_stage(config: PipelineConfig) -> list[StageReport]:
    with pipeline_run(config) as run:
        count(config.sft)
        return run.stages


def test_an_unchanged_stage_is_cached(project_root: Path):
    CALLS.clear()
    (first,) = one_stage(PipelineConfig())
    (second,) = one_stage(PipelineConfig())
    print(first, second)
    assert (first.state, second.state) == ("trained", "cached")
    assert len(CALLS) == 1

"""A project with two runs, of which the second has used stages of the first."""

import shutil
from pathlib import Path

import pytest
from recorded_runs import Audited, Recorded, new_project, record_run

from rlhf.config.pipeline import PipelineConfig
from rlhf.tracking.client import experiment_id


@pytest.fixture(scope="session")
def two_runs(
    migrated_mlflow: Path, empty_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Recorded, Recorded]:
    root = tmp_path_factory.mktemp("audited") / "project"
    with new_project(root, empty_repository, migrated_mlflow):
        long = "x" * 600  # more than a parameter holds
        config = PipelineConfig(name="audited")
        first = record_run(config.model_copy(update={"name": f"audited {long}"}), patch=b"a patch\n")
        kept = {stage: first.outputs[stage] for stage in ("data", "sft", "reward_model", "reward_audit")}
        second = record_run(config.model_copy(update={"seed": 1}), cached=kept)
    return root, first, second


@pytest.fixture
def audited(two_runs: tuple[Path, Recorded, Recorded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audited:
    """A copy that a test may change."""
    root, first, second = two_runs
    shutil.copytree(root, tmp_path / "project", symlinks=True)
    monkeypatch.setenv("RLHF_ROOT", str(tmp_path / "project"))
    experiment_id()  # sees that the store was moved
    return Audited(tmp_path / "project", first, second)

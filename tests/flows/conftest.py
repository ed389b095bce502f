"""A project in which the stages were run, for the tests of what comes after them."""

import shutil
import subprocess
from pathlib import Path

import pytest
from made_once import made_once
from retraining_runs import Deployment, config

from flows.pipeline import rlhf_pipeline


@pytest.fixture(scope="session")
def trained(embedded_data: Path, migrated_mlflow: Path, prefect_server: str) -> Path:
    """A project in which all stages were run, and no version is the champion."""

    def make(root: Path) -> None:
        shutil.copytree(embedded_data, root, dirs_exist_ok=True)
        (root / ".gitignore").write_text("/data\n/mlruns\n/.rlhf\n/.prefect\n/inbox\n")
        subprocess.run(["git", "add", "--all"], cwd=root, check=True)
        subprocess.run(["git", "commit", "--quiet", "--message", "The embedded data"], cwd=root, check=True)
        (root / "mlruns").mkdir()
        shutil.copy(migrated_mlflow, root / "mlruns" / "mlflow.db")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RLHF_ROOT", str(root))
            rlhf_pipeline(config())

    return made_once("trained", make)


@pytest.fixture
def project_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Below a short path: that of the socket of `rlhf up` may have 107 bytes, and `tmp_path` has the test's name."""
    return tmp_path_factory.mktemp("p") / "project"


@pytest.fixture
def project(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may change."""
    shutil.copytree(trained, tmp_path / "project", symlinks=True)
    monkeypatch.setenv("RLHF_ROOT", str(tmp_path / "project"))
    return tmp_path / "project"


@pytest.fixture
def deployment(project: Path) -> Deployment:
    return Deployment()

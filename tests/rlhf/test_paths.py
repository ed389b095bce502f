"""Where the stores are, and what is set in the environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf import paths as project


def test_the_root_is_the_checkout_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RLHF_ROOT", str(tmp_path))
    assert project.root() == tmp_path
    assert project.tracking_database() == tmp_path / "mlruns" / "mlflow.db"
    monkeypatch.delenv("RLHF_ROOT")
    assert project.root() == project.source_root() == Path(__file__).parents[2]


def test_the_environment_is_filled_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RLHF_ROOT", str(tmp_path))
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    for name in ("PREFECT_HOME", "MLFLOW_DISABLE_TELEMETRY", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    project.configure_environment(quiet=False)
    assert os.environ["PREFECT_HOME"] == str(tmp_path / ".prefect")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["DO_NOT_TRACK"] == "0"
    assert "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL" not in os.environ


def test_nothing_happens_at_import(tmp_path: Path):
    code = "import os; before = dict(os.environ); import rlhf.paths, rlhf.provenance; assert before == dict(os.environ)"
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"RLHF_ROOT": str(tmp_path)}, check=True
    )
    assert not list(tmp_path.iterdir())

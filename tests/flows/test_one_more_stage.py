"""A stage is a row, a function and a task: a project with one more shows it wherever stages are shown."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from retraining_runs import config

SETTINGS = ["--compute.num-threads", "1"]
PROGRAM = Path(__file__).with_name("toy_stage.py")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def rlhf(project: Path, client_environment: dict[str, str], tmp_path: Path):
    """Runs `rlhf` with the stage `letters`, and returns what it prints."""

    def run(*arguments: str) -> str:
        environment = os.environ | client_environment | {"RLHF_ROOT": str(project), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(PROGRAM), *arguments]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_is_in_all_that_lists_stages(rlhf, tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(config().model_dump_json())  # YAML, too
    run = json.loads(rlhf("run", str(recipe), "--json"))
    states = {stage["name"]: stage["state"] for stage in run["stages"]}
    assert list(states)[-2:] == ["letters", "model_card"]
    assert states["letters"] == "trained"
    assert states["policy"] == "cached"
    assert run["metrics"]["letters/seconds"] >= 0

    again = json.loads(rlhf("run", str(recipe), "--json"))
    assert {stage["name"]: stage["state"] for stage in again["stages"]}["letters"] == "cached"
    alone = json.loads(rlhf("stage", "letters", str(recipe), "--run", run["run_id"], "--json"))
    assert (alone["name"], alone["state"]) == ("letters", "cached")
    assert "--sft-run ID" in rlhf("stage", "letters", "--help")
    assert "letters" in rlhf("reproduce", "--help")

    assert "| Letter count | SFT policy |" in Path(run["model_card"]).read_text()
    assert "letters" in rlhf("compare", run["run_id"], again["run_id"])
    (newest,) = json.loads(rlhf("runs", "--limit", "1", "--json"))["runs"]
    assert newest["run_id"] not in (run["run_id"], again["run_id"]), "that of the stage alone"
    assert "letter count" in rlhf("lineage", newest["run_id"])

"""The pipeline killed in PPO, through the command line: started again, it goes on from PPO's last checkpoint."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from rlhf.tracking.client import tracking_uri

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"
# As in the fixture `project`, in which the stages before PPO were run.
SETTINGS = ["--compute.num-threads", "1", "--data.embedded", "none"]
COMMAND = [sys.executable, "-m", "rlhf.cli", "run", str(SMOKE), "--json", *SETTINGS]
UPDATES = ["--rl.num-updates", "16"]
CLOCKS = {"policy/episodes_per_second"}


@pytest.fixture
def environment(project: Path, migrated_prefect: Path) -> dict[str, str]:
    home = project / ".prefect"
    shutil.copytree(migrated_prefect, home)
    return os.environ | {"PREFECT_HOME": str(home)}


def run(environment: dict[str, str], *flags: str) -> dict[str, Any]:
    done = subprocess.run([*COMMAND, *UPDATES, *flags], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    report["log"] = done.stderr
    return report


def kill_in_ppo(environment: dict[str, str], stages: Path, *flags: str) -> Path:
    """Start a run, and kill it once PPO has written its second checkpoint. Returns the newest one."""
    process = subprocess.Popen(
        [*COMMAND, *UPDATES, *flags], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for checkpoints in _polled(lambda: sorted(stages.glob("policy-*/checkpoints/update_??????"))):
            if len(checkpoints) > 1:
                return checkpoints[-1]
            assert process.poll() is None, "it ended before it could be killed"
    finally:
        process.kill()
        process.wait()
    raise AssertionError


def _polled(look: Any) -> Iterator[list[Path]]:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        yield look()
        time.sleep(0.005)
    raise AssertionError("PPO wrote no checkpoint")


def curves(report: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Every point of PPO's run in MLflow, clocks apart: an attempt that went on has the curves of the one before."""
    client = MlflowClient(tracking_uri())
    run_id = next(stage["run_id"] for stage in report["stages"] if stage["name"] == "policy")
    names = [n for n in client.get_run(run_id).data.metrics if n not in CLOCKS and not n.endswith("seconds")]
    return {name: sorted((p.step, p.value) for p in client.get_metric_history(run_id, name)) for name in names}


def weights(report: dict[str, Any]) -> bytes:
    return (Path(report["policy_path"]) / "model.safetensors").read_bytes()


@pytest.mark.soak  # test_services has a killed run that is tried again in Prefect
def test_killed_in_ppo_the_pipeline_goes_on_from_the_checkpoint(project: Path, environment: dict[str, str]):
    whole = run(environment)
    # The budget is never reached: another fingerprint for the same numbers.
    stages = project / ".rlhf" / "stages"
    checkpoint = kill_in_ppo(environment, stages, "--rl.kl-budget", "21")
    again = run(environment, "--rl.kl-budget", "21")
    states = {stage["name"]: stage["state"] for stage in again["stages"]}
    # Evaluation is cached as well: PPO's output has the sha256 that it had.
    assert [name for name, state in states.items() if state == "trained"] == ["policy", "model_card"]
    first = re.search(r"policy: (\d+) of 16", again["log"])
    assert first is not None
    assert int(first[1]) == int(checkpoint.name.removeprefix("update_")) + 1
    assert weights(again) == weights(whole)
    assert curves(again) == curves(whole)
    assert [step for step, _ in curves(whole)["policy/kl_mean"]] == list(range(1, 17))

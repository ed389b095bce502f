"""Pipeline runs in a real MLflow store, without the training."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rlhf import artifacts, tracking
from rlhf.comparing.sides import Side, read_sides
from rlhf.project import tracking_database
from rlhf.references import Reference
from rlhf.run_database import DatabaseStore
from rlhf.run_store import RunStore

MakeRun = Callable[..., str]
CONFIG = {"name": "demo", "seed": 0, "ppo": {"kl_coef": 0.1}, "compute": {"dtype": "bf16", "num_threads": 2}}
TAGS = {
    "recipe": "demo",
    "mlflow.source.git.commit": "a" * 40,
    "rlhf.git_dirty": "false",
    "rlhf.data_md5": "d" * 32 + ".dir",
    "rlhf.reproducible": "true",
    "rlhf.python": "3.11.7",
    "rlhf.lock_sha256": "1" * 64,
    "rlhf.version.torch": "2.13.0",
}


def rows_of(values: Mapping[str, Mapping[str, list[float]]]) -> list[dict[str, Any]]:
    """What evaluation keeps of its prompts: values by model and judge."""
    number = len(values["policy"]["gold"])
    return [
        {
            "prompt": [{"role": "user", "content": f"question {row}"}],
            **{model: {judge: found[row] for judge, found in judges.items()} for model, judges in values.items()},
        }
        for row in range(number)
    ]


@pytest.fixture
def make_run(project_root: Path, tmp_path: Path) -> MakeRun:
    """Makes a finished pipeline run whose stages have stored what is given, and returns its id."""
    made: list[int] = []

    def make(
        config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        stages: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> str:
        pipeline = tracking.open_pipeline("demo, seed 0", None, config or CONFIG, TAGS | dict(tags or {}))
        for stage, given in (stages or {}).items():
            folder = tmp_path / f"made-{len(made)}"
            made.append(1)
            folder.mkdir()
            (folder / "made").write_text(given.get("made", stage))
            for name, content in given.get("files", {}).items():
                (folder / name).write_text(content)
            settings, inputs = given.get("settings", {}), given.get("inputs", {})
            fingerprint = given.get("fingerprint", f"print of {stage}")
            run_id = tracking.open_stage(pipeline, stage, fingerprint, settings, inputs)
            with tracking.metric_log(run_id) as log:
                log(given.get("metrics", {}), None)
                for name, curve in given.get("curves", {}).items():
                    for step, value in curve:
                        log({name: value}, step)
            uri, sha256 = artifacts.save_output(run_id, folder)
            tracking.finish_stage(run_id, Reference(run_id=run_id, uri=uri, sha256=sha256))
            tracking.link_stage(pipeline, stage, run_id, fingerprint, 1.0)
        tracking.close_run(pipeline, "FINISHED")
        return pipeline

    return make


@pytest.fixture
def store(project_root: Path) -> RunStore:
    return DatabaseStore(tracking_database())


@pytest.fixture
def sides(store: RunStore) -> Callable[..., list[Side]]:
    return lambda *run_ids: read_sides(store, run_ids, ["ppo/kl_mean"])


def evaluation(gold: list[float], baseline: list[float] | None = None, **more: Any) -> dict[str, Any]:
    """A stage of policy evaluation, by what each prompt's answers are worth."""
    from rlhf.evaluation.statistics import mean_interval, win_rate

    baseline = baseline or [0.0] * len(gold)
    gains = [a - b for a, b in zip(gold, baseline, strict=True)]
    gain, rate, policy = mean_interval(gains), win_rate(gold, baseline).rate, mean_interval(gold)
    rows = rows_of({"policy": {"gold": gold}, "baseline": {"gold": baseline}})
    metrics = {"num_prompts": float(len(gold)), "policy_gold": policy.value}
    for name, one in (("gold_gain", gain), ("win_rate", rate)):
        metrics |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
    return {
        "metrics": {f"evaluation/{name}": value for name, value in metrics.items()},
        "files": {
            "evaluation.json": json.dumps({"models": {"policy": {"gold": policy.as_dict()}}}),
            "side_by_side.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        },
        **more,
    }


def rlhf(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    command = [sys.executable, "-m", "rlhf.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=root)

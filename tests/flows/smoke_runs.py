"""The smoke recipe, submitted to `rlhf up`, and what a run of it ended with."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from started_services import ROOT, Up

SMOKE = yaml.safe_load((ROOT / "configs" / "smoke.yaml").read_text())
# As the runs of the fixture `trained` have it, whose stages are found cached.
SMOKE["data"]["embedded"] = None
FLOW = {"data", "sft", "reward_model", "reward_audit", "policy", "evaluation", "model_card"}


def recipe(**ppo: Any) -> dict[str, Any]:
    """The smoke recipe on one thread, with another fingerprint for each of the settings: the fields of a form."""
    changed = SMOKE | {"compute": {"dtype": "fp32", "num_threads": 1}, "rl": SMOKE["rl"] | ppo}
    return {"recipe": "smoke", "advanced": changed}


LONG = 120


def long_run(**ppo: Any) -> dict[str, Any]:
    """PPO takes long enough to be met in the middle."""
    return recipe(**{"num_updates": LONG, "checkpoint_every": 1, **ppo})


def stages_of(up: Up, run_id: str) -> Mapping[str, str]:
    """State of each stage in the stages' artifact: trained or cached."""
    rows = [line.split(" | ") for line in up.artifact(run_id, "stages").splitlines()[2:]]
    return {row[0].removeprefix("| "): row[1] for row in rows}


def policy(up: Up, run_id: str) -> str:
    """sha256 of the weights that a run ended with."""
    return weights(up.root, up.mlflow_runs(run_id)[-1].info.run_id)


def weights(root: Path, card: str) -> str:
    """sha256 of the weights beside a model card in a project, by the card's run in MLflow."""
    file = root / "mlruns" / "artifacts" / card / "artifacts" / "output" / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()

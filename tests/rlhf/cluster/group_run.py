"""Trains in a group as a stage would: `group_run.py WORLD FOLDER CLUSTER SETTINGS`, the last two as JSON."""

import json
import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any

from tiny_world import SETUP

from rlhf.cluster.group import run_group
from rlhf.config.cluster import ClusterConfig
from rlhf.config.model import ComputeConfig, Setup
from rlhf.config.rl import RLConfig
from rlhf.errors import RLHFError
from rlhf.files.checkpoint_mirror import address_of
from rlhf.rl.launch import train_in_processes
from rlhf.rl.stage import train_from_rollouts
from rlhf.workspace import Workspace

BASE = {"num_updates": 4, "rollout_size": 16, "num_minibatches": 2, "max_response_tokens": 8, "learning_rate": 1e-3}
BASE |= {"evaluate_every": 2, "checkpoint_every": 1, "num_critic_warmup_updates": 1, "kl_budget": 1e6}


def setup(num_processes: int) -> Setup:
    compute = ComputeConfig(dtype="fp32", num_threads=1, num_processes=num_processes)
    return SETUP.model_copy(update={"compute": compute})


def train(
    world: Path, folder: Path, cluster: ClusterConfig, settings: dict[str, Any] | None = None, num_processes: int = 2
) -> dict[str, dict[str, float]]:
    """Train, and return what was logged; with the backend `local` by processes of this host."""
    folders = [folder / part for part in ("output", "report", "checkpoints")]
    for part in folders:
        part.mkdir(parents=True, exist_ok=True)
    logged: dict[str, dict[str, float]] = {}

    def log(metrics: Any, step: int | None) -> None:
        clocks = ("policy/episodes_per_second", "policy/checkpoint_seconds")
        kept = {name: value for name, value in metrics.items() if name not in clocks}
        logged.setdefault(str(step), {}).update(kept)

    group = partial(run_group, cluster, address_of(cluster.checkpoint_uri, folder))
    train_from_rollouts(
        "ppo",
        RLConfig(**(BASE | (settings or {}))),
        setup(num_processes),
        *(world / part for part in ("data", "sft", "reward_models")),
        Workspace(*folders, log),
        start_processes=group if cluster.backend == "ray" else train_in_processes,
    )
    return logged


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    world, folder, cluster, settings = sys.argv[1:]
    try:
        logged = train(Path(world), Path(folder), ClusterConfig.model_validate_json(cluster), json.loads(settings))
    except RLHFError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    (Path(folder) / "logged.json").write_text(json.dumps(logged))

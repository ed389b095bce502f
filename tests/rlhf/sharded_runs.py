"""Runs by processes that hold parts of the models, or all of them. Run by `test_sharding.py` under torchrun."""

import json
import os
import shutil
import sys
from pathlib import Path

import sharded_families
import torch
import torch.distributed as dist
from tiny_world import SETUP

from rlhf.config.model import ComputeConfig
from rlhf.config.rl import ROLLOUT_METHODS, RLConfig
from rlhf.policy import distributed as processes
from rlhf.rl import trainer
from rlhf.rl.stage import train_from_rollouts
from rlhf.workspace import Workspace

BASE = {"num_updates": 4, "rollout_size": 16, "num_minibatches": 2, "max_response_tokens": 8, "learning_rate": 1e-3}
BASE |= {"evaluate_every": 2, "checkpoint_every": 2, "num_critic_warmup_updates": 1, "kl_budget": 1e6}
MODES = {
    "none": {"ptx_coef": 0.5, "ptx_batch_size": 3, "ptx_source": "corpus"},
    "adapters": {"sharing": "adapters", "lora": {"rank": 2}},
    "trunk": {"sharing": "trunk", "micro_batch_size": 2},
    "lora": {"lora": {"rank": 2}, "micro_batch_size": 2},
    "trunk_lora": {"sharing": "trunk", "lora": {"rank": 2}, "rewards": [{"kind": "trained"}]},
    "grpo": {"num_responses_per_prompt": 4, "num_critic_warmup_updates": 2},
    "online_dpo": {"num_responses_per_prompt": 4, "num_critic_warmup_updates": 2},
}
CLOCKS = ("policy/episodes_per_second", "policy/checkpoint_seconds")


class StoppedError(Exception):
    """Stands for whatever ends all processes at the same place."""


class Run:
    """Runs the stage in this process, one of several, and keeps what the first one logged."""

    def __init__(self, world: Path, mode: str, dtype: str) -> None:
        self.world, self.mode, self.dtype = world, mode, dtype

    def __call__(self, name: str, sharding: str, stop_before: int | None = None) -> None:
        folder = self.world / f"{self.mode}-{self.dtype}" / name
        folders = [folder / part for part in ("output", "report", "checkpoints")]
        for part in folders:
            part.mkdir(parents=True, exist_ok=True)
        logged: dict[str, dict[str, float]] = {}

        def log(metrics, step):
            kept = {name: value for name, value in metrics.items() if name not in CLOCKS}
            logged.setdefault(str(step), {}).update(kept)

        size = dist.get_world_size()
        compute = ComputeConfig(dtype=self.dtype, num_threads=1, num_processes=size, sharding=sharding)
        setup = SETUP.model_copy(update={"compute": compute})
        adapters = MODES[self.mode].get("sharing") == "adapters"
        models = self.world / ("adapter_models" if adapters else "reward_models")
        method = self.mode if self.mode in ROLLOUT_METHODS else "ppo"
        arguments = (RLConfig(**(BASE | MODES[self.mode])), setup, self.world / "data", self.world / "sft", models)
        update = trainer.run_update
        trainer.run_update = interrupted_before(stop_before, update)
        try:
            train_from_rollouts(method, *arguments, Workspace(*folders, log))
        except StoppedError:
            pass
        finally:
            trainer.run_update = update
        if processes.is_first():
            (folder / "logged.json").write_text(json.dumps(logged))
        processes.wait_for_all()

    def go_on(self, of: str, name: str, sharding: str) -> None:
        """Go on from another run's checkpoints, in a copy of them."""
        folder = self.world / f"{self.mode}-{self.dtype}"
        if processes.is_first():
            shutil.copytree(folder / of / "checkpoints", folder / name / "checkpoints")
        processes.wait_for_all()
        self(name, sharding)


def interrupted_before(stop_before, update):
    def run_update(context, number, *arguments):
        if number == stop_before:
            raise StoppedError
        return update(context, number, *arguments)

    return run_update


def compute(world: Path, mode: str, dtype: str, sharding: str) -> None:
    """A run of whole models, one of sharded ones, and sharded ones and whole ones that were interrupted."""
    run = Run(world, mode, dtype)
    run("whole", "none")
    run("sharded", sharding)
    run("sharded, broken", sharding, stop_before=3)
    run.go_on("sharded, broken", "sharded, whole at the end", "none")
    run("sharded, broken", sharding)
    run("whole, broken", "none", stop_before=3)
    run.go_on("whole, broken", "whole, sharded at the end", sharding)


if __name__ == "__main__":
    world, sharding, families, *cases = sys.argv[1:]
    if sharding == "node":  # as if each two of them were on a host
        os.environ["LOCAL_WORLD_SIZE"] = "2"
    torch.set_num_threads(1)
    with processes.process_group(ComputeConfig(num_processes=processes.num_started())):
        for case in cases:
            mode, dtype = case.split("-")
            compute(Path(world), mode, dtype, sharding)
        differences = sharded_families.largest_differences(json.loads(families), sharding)
        (Path(world) / "families.json").write_text(json.dumps(differences))

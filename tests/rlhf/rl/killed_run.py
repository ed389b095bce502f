"""A run that may be killed: `python killed_run.py SETUP DATA START REWARD_MODELS FOLDER [MOMENT [METHOD]]`."""

import importlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import rlhf.rl.trainer
from rlhf.config.model import Setup
from rlhf.config.rl import RLConfig
from rlhf.rl.stage import train_from_rollouts
from rlhf.workspace import Workspace

CONFIG = RLConfig(
    num_updates=10,
    rollout_size=32,
    num_minibatches=2,
    max_response_tokens=8,
    evaluate_every=2,
    checkpoint_every=1,
    num_critic_warmup_updates=1,
    kl_budget=1e6,
    learning_rate=1e-3,
)
OF_GROUPS = CONFIG.model_copy(
    update={
        "num_updates": 4,
        "num_responses_per_prompt": 4,
        "num_critic_warmup_updates": RLConfig().num_critic_warmup_updates,
    }
)
"""Of the methods without a critic."""


def die_at(call: str) -> None:
    """Be killed as a function of a module is called for the n-th time: rlhf.modeling.generation:sample_tokens:30."""
    module_name, name, number = call.split(":")
    module = importlib.import_module(module_name)
    real, calls = getattr(module, name), [0]

    def counted(*arguments, **keywords):
        calls[0] += 1
        if calls[0] == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **keywords)

    setattr(module, name, counted)


def main(
    setup: str,
    data: str,
    start: str,
    reward_models: str,
    folder: str,
    moment: str | None = None,
    method: str = "ppo",
) -> None:
    """Train, and write what is logged to metrics.jsonl."""
    if moment is not None:
        die_at(moment)
    with (Path(folder) / "metrics.jsonl").open("a") as log:

        def log_metrics(metrics: Mapping[str, float], step: int) -> None:
            log.write(json.dumps([step, dict(metrics)]) + "\n")
            log.flush()

        parts = [Path(folder) / part for part in ("output", "report", "checkpoints")]
        inputs = [Path(path) for path in (data, start, reward_models)]
        workspace = Workspace(*parts, log_metrics)
        config = CONFIG if method == "ppo" else OF_GROUPS
        train_from_rollouts(method, config, Setup.model_validate_json(setup), *inputs, workspace)


if __name__ == "__main__":
    if "ROOM_TAKEN_LATER" in os.environ:
        # By somebody else, after this run has looked.
        rlhf.rl.trainer.check_room = lambda *arguments: None
    main(*sys.argv[1:])

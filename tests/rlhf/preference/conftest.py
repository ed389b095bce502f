"""Runs of the methods that learn from given preferences, on tiny models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stage_runs import Run

from rlhf.config.preference import PreferenceConfig
from rlhf.preference.stage import train_on_preferences


class PreferenceRun(Run):
    """Calls the stage and keeps what it logged."""

    setup: Any
    inputs: tuple[Path, Path, Path]

    def train(self, method: str = "dpo", **settings: Any) -> None:
        defaults = {"batch_size": 8, "num_epochs": 2, "learning_rate": 3e-3, "max_response_tokens": 12}
        defaults |= {"evaluate_every": 3, "kl_budget": 1e6, "checkpoint_every_seconds": 1e-9, "kl_coef": 0.0}
        config = PreferenceConfig(**(defaults | settings))
        train_on_preferences(method, config, self.setup, *self.inputs, self.workspace)

    def evaluations(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.output / "evaluations.jsonl").read_text().splitlines()]


@pytest.fixture
def preference_run(
    tmp_path: Path,
    tiny_setup: Any,
    tiny_policy: Any,
    tiny_tokenizer: Any,
    arithmetic_data: Path,
    save_reward_model: Callable[..., Path],
) -> Callable[..., PreferenceRun]:
    """Makes a run; 32 pairs, so that 2 epochs of batches of 8 are 8 steps."""
    from rlhf.modeling.models import save_model

    save_model(tiny_policy, tiny_tokenizer, tmp_path / "sft" / "policy")
    for seed, name in enumerate(("reward_model", "selection_reward_model")):
        save_reward_model(name, seed)

    def make(name: str = "run", killed_at: tuple[str, int] | None = None) -> PreferenceRun:
        run = PreferenceRun(tmp_path / name, killed_at)
        run.setup, run.inputs = tiny_setup, (arithmetic_data, tmp_path / "sft", tmp_path / "reward_models")
        return run

    return make

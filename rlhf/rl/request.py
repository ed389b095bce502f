"""A run as JSON, for the processes that share it."""

from pathlib import Path

from rlhf.config.base import Section
from rlhf.config.model import Setup
from rlhf.config.rl import RLConfig


class RLRequest(Section):
    """Arguments of `rlhf.rl.stage.train_from_rollouts`, as JSON."""

    method: str
    """One of `rlhf.config.rl.ROLLOUT_METHODS`."""
    rl: RLConfig
    """Its settings."""
    setup: Setup
    """Seed, model and compute."""
    data: Path
    """The data stage's output."""
    start: Path
    """The SFT stage's output."""
    reward_models: Path
    """The reward stage's output."""
    output: Path
    """Where the chosen policy goes."""
    report: Path
    """Where tables and figures for people go."""
    checkpoints: Path
    """What a killed run goes on from."""

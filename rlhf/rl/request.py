"""A PPO run as JSON, for the processes that share it."""

from pathlib import Path

from rlhf.config.base import Section
from rlhf.config.model import Setup
from rlhf.config.rl import RLConfig


class RLRequest(Section):
    """Arguments of `rlhf.rl.stage.train_policy`, as JSON."""

    policy: RLConfig
    """PPO's settings."""
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

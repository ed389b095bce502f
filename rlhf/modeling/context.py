"""Context that the functions of one stage share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from rlhf.config.model import ComputeConfig, Setup
from rlhf.modeling.device import configure, derive_seed
from rlhf.modeling.tokenizer import load_tokenizer

Settings = TypeVar("Settings")
Settings_co = TypeVar("Settings_co", covariant=True)


@dataclass(frozen=True)
class StageContext(Generic[Settings_co]):
    """Settings of a stage and of its run, and what follows from them. Made once, at the top of the stage.

    Attributes:
        config: the stage's settings.
        setup: the run's seed, model and compute.
        tokenizer: of the models that the stage works with.
    """

    config: Settings_co
    setup: Setup
    tokenizer: Any

    @property
    def compute(self) -> ComputeConfig:
        """Device, precision and threads."""
        return self.setup.compute

    def seed(self, *purpose: str | int) -> int:
        """The run's seed for one purpose."""
        return derive_seed(self.setup.seed, *purpose)


def start_stage(config: Settings, setup: Setup, tokenizer: Path) -> StageContext[Settings]:
    """Pin the threads, find the device and load the tokenizer in a folder.

    Raises:
        ConfigError: the device is not there.
    """
    configure(setup.compute)
    return StageContext(config, setup, load_tokenizer(tokenizer))

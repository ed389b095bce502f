"""The settings of one timed run, which are the same on both sides. Only the standard library is imported."""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What both sides are told. The speed cases change models, epochs and micro-batch only.

    Attributes:
        episodes: of the whole run; `episodes / rollout` updates.
        rollout: episodes an update.
        micro_batch: rows a forward pass of training.
        missing_eos_penalty: subtracted from the score of a response without EOS; 0 is off.
        num_responses: responses to each prompt of a rollout.
        ends: a response ends at the tokenizer's EOS. Without it the peer is told that nothing ends, and the models
            must be such that they never say EOS.
        snapshot_every: updates between saved policies; 0 saves none.
    """

    episodes: int = 256
    rollout: int = 64
    micro_batch: int = 16
    ppo_epochs: int = 4
    response_tokens: int = 48
    temperature: float = 0.7
    learning_rate: float = 1e-4
    kl_coef: float = 0.05
    missing_eos_penalty: float = 0.0
    num_responses: int = 1
    ends: bool = False
    seed: int = 1
    threads: int = 2
    device: str = "cpu"
    snapshot_every: int = 0

    def __post_init__(self) -> None:
        if self.episodes % self.rollout or self.rollout % self.micro_batch:
            raise ValueError(
                f"{self.episodes} episodes, {self.rollout} a rollout, {self.micro_batch} a micro-batch: each must be "
                "a multiple of the next"
            )

    @property
    def num_updates(self) -> int:
        """Rollouts of the run."""
        return self.episodes // self.rollout

    def flags(self) -> list[str]:
        """As command-line flags of `our_run` and the peers."""
        flags: list[str] = []
        for name, value in asdict(self).items():
            flag = f"--{name.replace('_', '-')}"
            if isinstance(value, bool):
                flags += [flag] if value else []
            else:
                flags += [flag, str(value)]
        return flags


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of models, settings and results."""
    parser.add_argument("--policy", type=Path, required=True, help="folder of the policy, which is the reference too")
    parser.add_argument("--reward", type=Path, required=True, help="folder of the reward model")
    parser.add_argument("--prompts", type=Path, required=True, help='JSON Lines, {"input_ids": [...]}')
    parser.add_argument("--out", type=Path, required=True, help="where the result goes, as JSON")
    parser.add_argument("--snapshots", type=Path, help="where policies are saved as update_NNNN/, uncounted")
    for name, value in asdict(Settings()).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=type(value), default=value)


def settings_of(parsed: argparse.Namespace) -> Settings:
    """The settings among parsed flags."""
    return Settings(**{name: getattr(parsed, name) for name in asdict(Settings())})


def read_prompts(path: Path) -> list[list[int]]:
    """Token ids of the prompts."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["input_ids"] for line in file]


def snapshot_due(settings: Settings, done: int) -> bool:
    """Whether the policy is saved after `done` updates; the last one always is, where any is."""
    return bool(settings.snapshot_every) and (done % settings.snapshot_every == 0 or done == settings.num_updates)

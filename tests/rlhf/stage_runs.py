"""Runs of a stage that a test can look into, and kill."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlhf.files.hashing import sha256
from rlhf.metrics import check_declared
from rlhf.workspace import Workspace


class KilledError(Exception):
    """Stands for a kill signal: raised from within the training loop."""


@dataclass
class Run:
    """A workspace, and what was logged to it. Raises KilledError when `killed_at` is logged."""

    folder: Path
    killed_at: tuple[str, int] | None = None
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    final: dict[str, float] = field(default_factory=dict)
    num_logged: int = 0

    @property
    def workspace(self) -> Workspace:
        folders = [self.folder / name for name in ("output", "report", "checkpoints")]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        return Workspace(*folders, self._log)

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def weights(self, *names: str) -> list[str]:
        return [sha256(self.output / name / "model.safetensors") for name in names]

    def _log(self, metrics: Mapping[str, float], step: int | None) -> None:
        check_declared(metrics)
        self.num_logged += 1
        for name, value in metrics.items():
            assert isinstance(value, float | int)
            if step is None:
                self.final[name] = value
            else:
                self.curves.setdefault(name, {})[step] = value
            if (name, step) == self.killed_at:
                raise KilledError

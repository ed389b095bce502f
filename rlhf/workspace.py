"""The workspace of a stage: folders, and a place for its metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

MetricLog = Callable[[Mapping[str, float], int | None], None]


@dataclass(frozen=True)
class Workspace:
    """The folders of one stage attempt and the sink of its metrics.

    Attributes:
        output: what the stage makes. It goes into the artifact store as a whole once the stage returned.
        report: tables and figures about the stage, for people; logged, but no part of what the next stage reads.
        checkpoints: survives a kill and belongs to the stage's fingerprint; emptied once the stage succeeded.
        log_metrics: takes declared metrics (`rlhf.metrics`) and the step, or None for a final value.
    """

    output: Path
    report: Path
    checkpoints: Path
    log_metrics: MetricLog


def newest_step(folder: Path) -> int | None:
    """The step of the newest checkpoint that a stage's killed attempt has left; None where there is none.

    Args:
        folder: the working folder of the stage's attempts.
    """
    steps = [path.name.rpartition("_")[2] for path in folder.glob("checkpoints/*_??????")]
    return max((int(step) for step in steps if step.isdigit()), default=None)

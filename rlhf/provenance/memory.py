"""The most memory that a stage has held, for plans of later runs."""

import gc
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlhf.modeling.cpu.memory import trim_heap

_RESET_PEAK = "5"
"""See proc(5), clear_refs."""
_MB = 1e6


class PeakMemory:
    """Filled in when the block of `peak_memory` ends.

    Attributes:
        mb: MB of the process, and of the processes that it has started, at their peaks.
        device_mb: MB that torch has reserved on CUDA devices of this process; None where it used none.
    """

    mb: float = 0.0
    device_mb: float | None = None

    def metrics(self) -> dict[str, float]:
        """By the names that `rlhf.metrics` declares for each stage."""
        on_device = {} if self.device_mb is None else {"peak_device_memory_mb": self.device_mb}
        return {"peak_memory_mb": self.mb, **on_device}


@contextmanager
def peak_memory(num_workers: int) -> Iterator[PeakMemory]:
    """Measure the most memory that this process holds within the block; what it held before counts as well.

    Args:
        num_workers: processes that are started in the block and all do the same; 0 where this one works alone.
    """
    gc.collect()  # trainers are circles, and the models of the stage before hang on them
    trim_heap()
    _reset()
    peak = PeakMemory()
    yield peak
    peak.mb = _own_peak_mb() + num_workers * _peak_mb(resource.RUSAGE_CHILDREN)
    cuda = _cuda()
    if cuda is not None:
        peak.device_mb = cuda.max_memory_reserved() / _MB


def _reset() -> None:
    """On systems without /proc the peak is that of the process so far."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    cuda = _cuda()
    if cuda is not None:
        cuda.reset_peak_memory_stats()


def _own_peak_mb() -> float:
    status = Path("/proc/self/status")
    if not status.is_file():
        return _peak_mb(resource.RUSAGE_SELF)
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / _MB


def _peak_mb(who: int) -> float:
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / _MB


def _cuda() -> Any:
    """torch.cuda where this process has used it; torch is not imported for it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None

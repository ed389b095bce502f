"""What one timed run measures, the same way on both sides: seconds by phase, peak memory, lengths of responses.

Only the standard library is imported: the peer's environment has none of the project's packages.
"""

import functools
import importlib.metadata
import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Phase = str | Callable[..., str]


class PhaseClock:
    """Seconds by phase. A phase within a phase is counted once, under its own name.

    Attributes:
        seconds: by phase, without what phases within it took.
        paused: seconds of `pause` blocks, which belong to no phase and to no run.
    """

    def __init__(self, synchronize: Callable[[], None] = lambda: None) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.paused = 0.0
        self._synchronize = synchronize
        self._inner: list[float] = []
        self._started = time.perf_counter()

    def start(self) -> None:
        """Begin anew, with nothing measured."""
        self.seconds.clear()
        self.paused = 0.0
        self._started = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds since the start, pauses left out."""
        self._synchronize()
        return time.perf_counter() - self._started - self.paused

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count a block under `name`."""
        began, paused_before = time.perf_counter(), self.paused
        self._inner.append(0.0)
        try:
            yield
        finally:
            self._synchronize()
            took = time.perf_counter() - began - (self.paused - paused_before)
            self.seconds[name] += took - self._inner.pop()
            if self._inner:
                self._inner[-1] += took

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave a block out: what the benchmark does for itself."""
        self._synchronize()
        began = time.perf_counter()
        try:
            yield
        finally:
            self.paused += time.perf_counter() - began

    def watch(self, owner: Any, name: str, phase: Phase) -> None:
        """Count every call of `owner.name`; `phase` is a name, or tells it from the call's arguments."""
        call = getattr(owner, name)

        @functools.wraps(call)
        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.phase(phase if isinstance(phase, str) else phase(*args, **kwargs)):
                return call(*args, **kwargs)

        setattr(owner, name, watched)

    def report(self, wall_s: float) -> dict[str, float]:
        """Seconds by phase, and `other`: what of the wall time no phase explains."""
        phases = {name: round(seconds, 3) for name, seconds in sorted(self.seconds.items())}
        return phases | {"other": round(wall_s - sum(self.seconds.values()), 3)}


def peak_rss_mb() -> int:
    """The most memory that was resident in this process, imports counted, in MB.

    Read from VmHWM: getrusage would also count the parent's memory of the moment in which it forked.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    raise OSError("/proc/self/status has no VmHWM; this benchmark needs Linux")


def summarize_lengths(rollouts: Sequence[Sequence[int]]) -> list[dict[str, float]]:
    """Mean and longest response of each rollout, in tokens, EOS included."""
    return [{"mean": round(sum(lengths) / len(lengths), 2), "longest": max(lengths)} for lengths in rollouts]


def versions(*packages: str) -> dict[str, str]:
    """Of Python and of packages."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Leave the result as JSON, and say it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result) + "\n")
    print("RESULT", json.dumps(result), flush=True)

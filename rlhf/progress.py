"""How far a stage is, told to whoever watches in this process: the command line's bars, Prefect's progress artifact."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Watcher = Callable[[str, int, int], None]
_watchers: list[Watcher] = []


def report_progress(stage: str, done: int, total: int) -> None:
    """Tell all watchers.

    Args:
        stage: the stage's name.
        done: steps or updates that are behind it, also those of an attempt that was killed.
        total: steps or updates that there will be.
    """
    for watcher in _watchers:
        watcher(stage, done, total)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Call `watcher(stage, done, total)` on every report within the block."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)

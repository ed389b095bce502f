"""Locks of flow runs: each process holds a locked file, and the lock dies with the process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rlhf.paths import pipelines_folder


@contextmanager
def hold_run_lock(flow_run_id: str) -> Iterator[None]:
    """Hold a flow run's lock, and leave nothing behind once the block comes to its end.

    After an error the file stays: what the error was, such as a full disk, may have kept the end of the run from being
    written down, and `close_dead` looks after it.
    """
    path = _lock(flow_run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield
        path.unlink()


def is_alive(flow_run_id: str) -> bool:
    """Whether a process of this machine works on a flow run."""
    path = _lock(flow_run_id)
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def close_dead(close: Callable[[str], bool]) -> list[str]:
    """Close the books of flow runs whose process was killed, or ended by an error. Each is then forgotten.

    Args:
        close: takes a flow run's id, and says whether its books are closed; otherwise the next call tries again.

    Returns:
        The flow runs that were closed.
    """
    closed = []
    for path in pipelines_folder().glob("*.lock"):
        try:
            with FileLock(path, timeout=0):
                if close(path.stem):
                    path.unlink()
                    closed.append(path.stem)
        except Timeout:
            continue
    return closed


def _lock(flow_run_id: str) -> Path:
    return pipelines_folder() / f"{flow_run_id}.lock"

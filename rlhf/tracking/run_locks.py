"""Locks of flow runs: each process holds a locked file, and the lock dies with the process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf.files.locks import LockedError, is_locked, locked
from rlhf.paths import local_folder


@contextmanager
def hold_run_lock(flow_run_id: str) -> Iterator[None]:
    """Hold a flow run's lock, and leave nothing behind once the block comes to its end.

    After an error the file stays: what the error was, such as a full disk, may have kept the end of the run from being
    written down, and `close_dead` looks after it.
    """
    path = _lock(flow_run_id)
    with locked(path):
        yield
        path.unlink()


def is_alive(flow_run_id: str) -> bool:
    """Whether a process of this machine works on a flow run."""
    return is_locked(_lock(flow_run_id))


def was_here(flow_run_id: str) -> bool:
    """Whether a process of this machine has worked on a flow run, and its books are not closed."""
    return _lock(flow_run_id).is_file()


def close_dead(close: Callable[[str], bool]) -> list[str]:
    """Close the books of flow runs whose process was killed, or ended by an error. Each is then forgotten.

    Args:
        close: takes a flow run's id, and says whether its books are closed; otherwise the next call tries again.

    Returns:
        The flow runs that were closed.
    """
    closed = []
    for path in local_folder("pipelines").glob("*.lock"):
        try:
            with locked(path, timeout=0):
                if close(path.stem):
                    path.unlink()
                    closed.append(path.stem)
        except LockedError:
            continue
    return closed


def _lock(flow_run_id: str) -> Path:
    return local_folder("pipelines") / f"{flow_run_id}.lock"

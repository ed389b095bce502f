"""Which flow runs have a process that lives: each holds a locked file, and the lock dies with the process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rlhf.project import pipelines_folder


@contextmanager
def alive(flow_run_id: str) -> Iterator[None]:
    """Hold a flow run's lock, and leave nothing behind once the block ends, whatever ends it but a kill."""
    path = _lock(flow_run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        try:
            yield
        finally:
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


def killed() -> Iterator[str]:
    """The flow runs whose process ended without a word, each forgotten as the next one is asked for."""
    for path in pipelines_folder().glob("*.lock"):
        try:
            with FileLock(path, timeout=0):
                yield path.stem
                path.unlink()
        except Timeout:
            continue


def _lock(flow_run_id: str) -> Path:
    return pipelines_folder() / f"{flow_run_id}.lock"

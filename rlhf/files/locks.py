"""Locks between the processes of one machine: each is a file, and a lock dies with the process that holds it.

The file itself stays when a lock is released, since another process may be waiting for it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rlhf.errors import InputError

logger = logging.getLogger(__name__)


class LockedError(InputError):
    """Another process holds a lock, and is not waited for as long as it takes."""


@contextmanager
def locked(path: Path, busy: str | None = None, *, timeout: float | None = None, nested: bool = False) -> Iterator[int]:
    """Hold a lock while the block lasts.

    Args:
        path: the lock's file; its folder is made.
        busy: what to say where another process holds the lock: an error's text with a timeout, else a warning.
        timeout: seconds to wait at most; None waits as long as it takes.
        nested: whether this thread may hold the lock already.

    Yields:
        How often this thread holds the lock now.

    Raises:
        LockedError: the timeout is over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, is_singleton=nested)
    try:
        lock.acquire(timeout=timeout or 0)
    except Timeout:
        if timeout is not None:
            raise LockedError(busy or f"another process holds {path}; wait until it is over") from None
        if busy:
            logger.warning(busy)
        lock.acquire()
    try:
        yield lock.lock_counter
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock, this one included."""
    if not path.exists():
        return False
    try:
        with locked(path, timeout=0):
            return False
    except LockedError:
        return True


def lock_of(folder: Path) -> Path:
    """The file of the lock that belongs to a folder; it lies beside it."""
    return folder.with_name(f"{folder.name}.lock")

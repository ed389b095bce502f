"""Room on the disk, asked for before hours of training and not after them, and what is to outlast a power cut."""

import os
import shutil
from pathlib import Path

from rlhf.errors import DiskSpaceError


def check_room(folder: Path, num_bytes: int, what: str) -> None:
    """Refuse to begin what would not fit.

    Args:
        folder: where it will be written; what it holds already counts as room, since a run that goes on replaces it.
        num_bytes: how much there will be at most.
        what: will be written, for the message.

    Raises:
        DiskSpaceError: says how much is missing, and where.
    """
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if held + free < num_bytes:
        raise DiskSpaceError(
            f"{folder}: {what} take up to {_shown(num_bytes)}, and {_shown(held + free)} are free; "
            "make room on that disk"
        )


def sync(path: Path) -> None:
    """Bring a file's contents, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _shown(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**28 else f"{num_bytes / 2**20:.1f} MiB"

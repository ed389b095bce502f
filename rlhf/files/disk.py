"""Room on the disk, checked before hours of training and not after them, and files that outlast a power cut."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rlhf.errors import DiskSpaceError
from rlhf.paths import artifacts_folder, root, state_folder

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Libraries that are not written in Python, servers and other processes say it in words.
_WORDS = ("no space left on device", "database or disk is full", "disk quota exceeded", "os error 28", "os error 122")
_NOTHING = 128 * 1024
"""With less free than that, a disk is full whatever is written next."""


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


def is_full(error: BaseException) -> bool:
    """Whether a disk or a user's share of it was full, as this error or an error behind it says."""
    return _told(error) is not None


def full_disk(error: BaseException) -> str | None:
    """The message about a full disk; None where no disk was full.

    Args:
        error: that a command ends by. Servers do not say why they failed, so the disks are looked at as well.
    """
    told = _told(error)
    full = _full_folder(told)
    if told is None and full is None:
        return None
    where = full or Path(os.path.realpath(root()))
    free = shutil.disk_usage(where).free
    which = f"{_shown(free)} are free" if full else "or the share of it that this user may have, or that of a server"
    return (
        f"{where}: the disk is full ({which}); make room there (`rlhf gc` lists what can go), then give the command "
        "again, which goes on from what was finished"
    )


def _told(error: BaseException) -> BaseException | None:
    """The first error that says it: this error, or an error behind it."""
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        cause = queue.pop(0)
        if cause is None or cause in seen:
            continue
        seen.append(cause)
        queue += [cause.__cause__, cause.__context__, *(of for of in cause.args if isinstance(of, BaseException))]
    told = [cause for cause in seen if _says_it(cause)]
    return next((cause for cause in told if getattr(cause, "filename", None)), next(iter(told), None))


def _says_it(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(words in str(error).lower() for words in _WORDS)


def _full_folder(error: BaseException | None) -> Path | None:
    """The folder without room: the folder that the error names, or the fullest folder that commands write to."""
    name = getattr(error, "filename", None)
    if isinstance(name, str | bytes | os.PathLike):
        path = Path(os.fsdecode(name)).absolute()
        return next(folder for folder in (path, *path.parents) if folder.is_dir())
    folders = {shutil.disk_usage(folder).free: folder for folder in reversed(list(_written()))}
    least = min(folders)
    return folders[least] if least < _NOTHING else None


def _written() -> Iterator[Path]:
    """The folders that commands write to, as far as they are there. Each may be on a disk of its own."""
    prefect = Path(os.environ.get("PREFECT_HOME", root() / ".prefect"))
    folders = (root(), artifacts_folder(), state_folder(), root() / ".dvc" / "cache", root() / "data", prefect)
    for folder in (*folders, Path(tempfile.gettempdir())):
        if folder.is_dir():
            yield folder


def sync(path: Path) -> None:
    """Bring a file's contents, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _shown(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**28 else f"{num_bytes / 2**20:.1f} MiB"

"""Names and files from outside: a name stays below its folder, and only a regular file is opened."""

import stat
from io import BufferedReader
from pathlib import Path, PurePosixPath

from rlhf.errors import InputError, check_name

_KERNEL = (Path("/proc"), Path("/sys"))
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_relative(name: object, where: str) -> str:
    """Refuse a name that does not stay below the folder that it is to be put into.

    Args:
        name: as somebody else has written it.
        where: it stands, for the message.

    Returns:
        The same name.

    Raises:
        InputError: it is no text, is empty or absolute, or holds `..` or a NUL.
    """
    if isinstance(name, str) and "\0" not in name:
        check_name(name, where)
        path = PurePosixPath(name)
        if path.parts and not path.is_absolute() and ".." not in path.parts:
            return name
    raise InputError(
        f"{where}: {name!r} is no name of a file below a folder (it is empty or absolute, or holds `..` or a NUL), so "
        f"it could be written or read anywhere; get the files from somebody you trust"
    )


def below(folder: Path, name: object, where: str) -> Path:
    """The path of a name from outside below a folder. The folder itself may be a link, what is in it may not lead out.

    Args:
        folder: where the path must stay.
        name: as somebody else has written it.
        where: it stands, for the message.

    Raises:
        InputError: the path would leave the folder.
    """
    path = folder / check_relative(name, where)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{where}: {name!r} leads out of {folder} by a link, to {path.resolve()}; remove that link")
    return path


def check_regular(path: Path) -> None:
    """Refuse what is no file with an end, such as a device or a pipe: reading it would never be over.

    Raises:
        InputError: it is something else, or a file that the kernel makes up (/proc, /sys).
        OSError: there is nothing.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise InputError(f"{path}: this is {kind}, and only regular files are read; give a file, or take it away there")
    if any(path.resolve().is_relative_to(folder) for folder in _KERNEL):
        raise InputError(f"{path}: this is a file that the kernel makes up, and only those on a disk are read; copy it")


def open_regular(path: Path) -> BufferedReader:
    """A regular file, opened for reading.

    Raises:
        InputError: it is none; see `check_regular`.
        OSError: there is nothing, or it may not be read.
    """
    check_regular(path)
    return path.open("rb")

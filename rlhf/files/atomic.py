"""A file or a folder appears whole or not at all."""

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf.errors import DataError
from rlhf.files.disk import sync
from rlhf.files.hashing import dvc_md5

# Told apart from what a person may put beside data/, since what a killed writer left under it is removed.
STAGED_PREFIX = ".rlhf-new-"


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file in one step, even if the power fails; its folder is made, and what was there is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        sync(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `path` in one step, even if the power fails.

    There must be one writer at a time, since what a killed writer left is removed first. An error leaves nothing.
    """
    unfinished = path.with_name(f"{path.name}.partial")
    for folder in (unfinished, replaced_beside(unfinished)):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        for written in (*unfinished.rglob("*"), unfinished):
            sync(written)
    except Exception:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    put_in_place(unfinished, path)
    sync(path.parent)
    shutil.rmtree(replaced_beside(unfinished), ignore_errors=True)


@contextmanager
def staged(destination: Path) -> Iterator[Path]:
    """A new data folder beside the destination, to be filled and installed. What is left of it goes at the end."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{STAGED_PREFIX}{destination.name}-", dir=destination.parent) as folder:
        filled = Path(folder) / destination.name
        filled.mkdir()
        yield filled


def install(filled: Path, destination: Path, replace: bool = False) -> bool:
    """Rename a filled folder to its place.

    Args:
        filled: the folder of `staged`.
        destination: where it goes.
        replace: whether other content there may be lost.

    Returns:
        Whether anything changed: the same content may have been there already.

    Raises:
        DataError: the destination holds something else, and `replace` is not set.
    """
    if is_taken(destination):
        if dvc_md5(destination) == dvc_md5(filled):
            return False
        if not replace:
            raise other_data(destination)
    put_in_place(filled, destination)
    return True


def is_taken(destination: Path) -> bool:
    """Whether a folder with something in it is there.

    Raises:
        DataError: a file is there.
    """
    if destination.exists() and not destination.is_dir():
        raise DataError(
            f"{destination}: this is a file, and a folder is to be made there; move it, or give another place"
        )
    return destination.is_dir() and any(destination.iterdir())


def other_data(destination: Path) -> DataError:
    """The error about a folder whose content must not be lost."""
    return DataError(
        f"{destination}: the folder holds other data; give --replace to replace it, or another destination"
    )


def put_in_place(filled: Path, destination: Path) -> None:
    """Rename a folder to its place; what was there moves beside it, to be deleted."""
    if destination.is_dir():
        destination.rename(replaced_beside(filled))
    filled.rename(destination)


def replaced_beside(filled: Path) -> Path:
    """The place where `put_in_place` keeps the folder that it has replaced."""
    return filled.with_name(f"{filled.name}.replaced")

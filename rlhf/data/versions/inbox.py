"""New data for retraining: files of preferences that somebody put into an inbox, or the data of a git branch."""

import logging
from collections.abc import Sequence
from pathlib import Path

from rlhf.config.data import DataConfig
from rlhf.data.versions.append import Addition, add_rows
from rlhf.data.versions.history import md5_at
from rlhf.data.versions.repository import TRACKED
from rlhf.data.versions.resolve import resolve, version_folder
from rlhf.data.versions.stores import check_out
from rlhf.data.versions.transaction import new_version, publish, track, writing
from rlhf.errors import ConfigError, DataError
from rlhf.files.hashing import dvc_md5, sha256
from rlhf.text.markdown import one_line

logger = logging.getLogger(__name__)
IMPORTED = "imported"


def import_inbox(inbox: str, root: Path) -> int:
    """Add the preferences of all files in an inbox to data/, and track that as a new version with DVC.

    All files are read before anything is written. A row that data/ holds already is not added again, so what was cut
    off in the middle is done again without harm. Files move to `imported/` last. Names that begin with a dot are left
    alone, and so are links, pipes and the like, of which a warning says so: a link would bring a file from anywhere.

    Args:
        inbox: folder below the project's root.
        root: the project's root.

    Returns:
        Rows added.

    Raises:
        ConfigError: the inbox is not below the root.
        DataError: it is not there, its `imported` is a link, a file cannot be read, or data/ differs from data.dvc or
            lacks a file.
    """
    folder = _existing(inbox_folder(inbox, root))
    with writing(root):  # also while files are looked for and moved: another import may be at the same inbox
        _check_imported(folder / IMPORTED)
        files = _usable_files(folder)
        added = _add_files(files, root) if files else 0
        for path in files:
            _put_away(path, folder / IMPORTED)
    if files:
        logger.info("added %d preferences of %d files in %s to %s/", added, len(files), inbox, TRACKED)
    return added


def _add_files(files: Sequence[Path], root: Path) -> int:
    with new_version(root) as filled:
        dirty = resolve(DataConfig(allow_dirty_data=True), root).dirty
        counts, _, _ = add_rows([Addition(str(path)) for path in files], root, filled)
        added = counts.total()
        desc = one_line(f"With feedback of {', '.join(path.name for path in files)}")
        if added and dirty:
            resolve(DataConfig(), root)  # says what to do about it
        if added:
            publish(filled, root, desc, replace=True)
        elif dirty:
            # Nothing was added to data that differs from data.dvc: an import before was cut off in between.
            track(root, desc=desc)
    return added


def check_out_branch(branch: str, root: Path) -> str:
    """Bring a git branch's data into a folder of its own, from DVC's cache or remote. The work tree stays as it is.

    Args:
        branch: branch, tag or commit of this clone.
        root: the project's root.

    Returns:
        The folder, relative to the root. It is named after the data's md5.

    Raises:
        DataError: the branch has no data.dvc, or its data cannot be had.
    """
    md5 = md5_at(branch, root)
    folder = version_folder(md5, root)
    if not folder.is_dir() or dvc_md5(folder) != md5:
        check_out(md5, folder, root, replace=True)
    return folder.relative_to(root).as_posix()


def inbox_folder(inbox: str, root: Path, setting: str = "retrain.inbox") -> Path:
    """The folder of an inbox, which need not be there yet.

    Args:
        inbox: folder below the project's root.
        root: the project's root.
        setting: that names it, for the message.

    Raises:
        ConfigError: it is not below the root.
    """
    folder = (root / inbox).resolve()
    if folder == root.resolve() or not folder.is_relative_to(root.resolve()):
        raise ConfigError(f"{setting}: {inbox} is not a folder below {root}; name one that is")
    return folder


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; make it, or set retrain.inbox to the one that is there")
    return folder


def _usable_files(folder: Path) -> list[Path]:
    """The files of an inbox that are its own."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    unusable = [path for path in paths if path.is_symlink() or not (path.is_file() or path.is_dir())]
    for path in unusable:
        kind = f"a link to {path.readlink()}" if path.is_symlink() else "no regular file"
        logger.warning("%s is %s, and was not imported; put the file itself there", path, kind)
    return [path for path in paths if path.is_file() and path not in unusable]


def _check_imported(folder: Path) -> None:
    """Files would leave the project, to where nobody looks for them."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        kind = f"a link to {folder.readlink()}" if folder.is_symlink() else "a file"
        raise DataError(f"{folder}: this is {kind}, and imported files move into a folder there; remove it")


def _put_away(path: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    target = folder / path.name
    path.rename(target if not target.exists() else folder / f"{sha256(path)[:12]}-{path.name}")

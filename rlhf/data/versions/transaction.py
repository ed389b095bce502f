"""One writer of data/ at a time. A version replaces another whole, and one that a kill cut off is finished later."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlhf.data.versions.repository import (
    DVC_FILE,
    TRACKED,
    check_left_to_dvc,
    check_repository,
    md5_in,
    opened,
    read_dvc_file,
)
from rlhf.errors import DataError
from rlhf.files.atomic import (
    STAGED_PREFIX,
    is_taken,
    other_data,
    put_in_place,
    replaced_beside,
    staged,
    write_file,
)
from rlhf.files.hashing import dvc_md5
from rlhf.files.locks import locked

logger = logging.getLogger(__name__)
_JOURNAL = "version.json"
_STARTED = f"{STAGED_PREFIX}{TRACKED}-*"


@dataclass(frozen=True)
class Version:
    """A version that is to become data/.

    Attributes:
        md5: of the folder.
        desc: where it comes from, for data.dvc.
        meta: marks it, for data.dvc.
    """

    md5: str
    desc: str | None = None
    meta: Mapping[str, Any] | None = None


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Hold the right to write data/, waited for while another process has it. May be nested.

    The work of a process that was killed is finished first, and what it left is removed.

    Raises:
        DataError: the root is no git and DVC repository, or git tracks data/.
    """
    check_repository(root)
    check_left_to_dvc(root)
    # Beside DVC's own lock, where neither git nor DVC looks.
    path = root / ".dvc" / "tmp" / "rlhf-data.lock"
    with locked(path, f"another process writes {root / TRACKED}; waiting for it", nested=True) as times:
        if times == 1:
            _recover(root)
        yield


@contextmanager
def new_version(root: Path) -> Iterator[Path]:
    """Hold the right to write data/, with an empty folder to be filled and published.

    Raises:
        DataError: the root is no git and DVC repository, git tracks data/, or data.dvc is there and is not DVC's.
    """
    if (root / DVC_FILE).exists():
        read_dvc_file(root)
    with writing(root), staged(root / TRACKED) as filled:
        yield filled


def publish(
    filled: Path, root: Path, desc: str | None = None, meta: Mapping[str, Any] | None = None, replace: bool = False
) -> Version:
    """Make a folder of `new_version` data/, and track it with DVC. Both, or neither.

    Args:
        filled: the folder.
        root: the project's root.
        desc: see `Version`.
        meta: see `Version`.
        replace: whether other data there may go.

    Raises:
        DataError: there is other data and `replace` is not set, or DVC refuses. Nothing has changed then.
    """
    destination, dvc_file = root / TRACKED, root / DVC_FILE
    version = Version(dvc_md5(filled), desc, meta)
    taken = is_taken(destination)
    same = taken and dvc_md5(destination) == version.md5
    if taken and not same and not replace:
        raise other_data(destination)
    before = dvc_file.read_bytes() if dvc_file.is_file() else None
    _write_journal(filled.parent, version)
    try:
        if not same:
            put_in_place(filled, destination)
        track(root, meta, desc)
    except BaseException:
        _take_back(filled, destination)
        _restore(dvc_file, before)
        raise
    return version


def restore(filled: Path, root: Path, md5: str) -> None:
    """Make a folder of `new_version` data/, where data.dvc names that version already."""
    _write_journal(filled.parent, Version(md5))
    put_in_place(filled, root / TRACKED)


def track(root: Path, meta: Mapping[str, Any] | None = None, desc: str | None = None) -> str:
    """Put data/ under DVC (`dvc add data`), and write what data.dvc says about it anew.

    Args:
        root: the project's root, a git and DVC repository.
        meta: goes into data.dvc as `meta`; `{"generator": "calibrated_arithmetic"}` marks the embedded data.
        desc: goes into data.dvc as `desc`.

    Returns:
        DVC's md5 of data/.

    Raises:
        DataError: data/ or the repository is missing, or DVC refuses.
    """
    if not (root / TRACKED).is_dir():
        raise DataError(f"{root / TRACKED}: there is no such folder; make it with `rlhf data import FILE`")
    with writing(root), opened(root, "DVC cannot track the folder") as repo:
        (stage,) = repo.add(str(root / TRACKED))
        md5: str = stage.outs[0].hash_info.value
        # DVC keeps both from version to version, so stale ones would speak of other data.
        stage.meta = {**meta, "md5": md5} if meta else None
        stage.desc = desc
        stage.dump()
    return md5


def recover(root: Path) -> None:
    """Let a version that is being put in place, or that a kill cut off, come to its end."""
    if any(root.glob(f"{_STARTED}/{_JOURNAL}")):
        with writing(root):
            pass


def _write_journal(folder: Path, version: Version) -> None:
    """Write down what is about to be done, so that it can be finished by another process."""
    write_file(folder / _JOURNAL, json.dumps(asdict(version)))


def _take_back(filled: Path, destination: Path) -> None:
    if not filled.exists():
        destination.rename(filled)
    if replaced_beside(filled).is_dir():
        replaced_beside(filled).rename(destination)


def _restore(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        write_file(path, content)


def _recover(root: Path) -> None:
    """Finish the work of killed writers. The caller holds the lock, so no writer of what is left lives."""
    for folder in root.glob(f"{_STARTED}/"):
        if (folder / _JOURNAL).is_file():
            _finish(folder, root)
        shutil.rmtree(folder)


def _finish(folder: Path, root: Path) -> None:
    version = Version(**json.loads((folder / _JOURNAL).read_text(encoding="utf-8")))
    filled, destination = folder / TRACKED, root / TRACKED
    if filled.is_dir():
        if destination.exists():
            return  # cut off before anything was moved
        filled.rename(destination)
    if destination.is_dir() and _tracked_md5(root) != version.md5 and dvc_md5(destination) == version.md5:
        track(root, version.meta, version.desc)
        logger.warning("%s: finished the work of a process that was killed, %s", destination, version.desc)


def _tracked_md5(root: Path) -> str | None:
    return md5_in(read_dvc_file(root)) if (root / DVC_FILE).is_file() else None

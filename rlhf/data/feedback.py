"""New data for retraining: files of preferences that somebody put into an inbox, or the data of a git branch."""

import json
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from rlhf.config import DataConfig
from rlhf.data.formats import import_dataset
from rlhf.data.schema import DATASHEET, Row, read_rows
from rlhf.data.source import DVC_FILE, TRACKED, check_repository, resolve, track
from rlhf.data.staging import install, staged
from rlhf.errors import ConfigError, DataError
from rlhf.hashing import dvc_md5, sha256

logger = logging.getLogger(__name__)
IMPORTED = "imported"
_PREFERENCES = "preferences.jsonl"


def import_inbox(inbox: str, root: Path) -> int:
    """Add the preferences of all files in an inbox to data/, and track that as a new version with DVC.

    All files are read before anything is written. A row that data/ holds already is not added again, so what was cut
    off in the middle is done again without harm. Files move to `imported/` last. Names that begin with a dot are left
    alone.

    Args:
        inbox: folder below the project's root.
        root: the project's root.

    Returns:
        Rows added.

    Raises:
        ConfigError: the inbox is not below the root.
        DataError: it is not there, a file cannot be read, or data/ differs from data.dvc.
    """
    folder = _inbox(inbox, root)
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if not files:
        return 0
    dirty = resolve(DataConfig(allow_dirty_data=True), root).dirty
    with staged(root / TRACKED) as filled:
        # Files that DVC linked from its cache may be read-only, and must not be changed in place.
        shutil.copytree(root / TRACKED, filled, dirs_exist_ok=True, copy_function=shutil.copyfile)
        added = _add(files, filled)
        if added and dirty:
            resolve(DataConfig(), root)  # says what to do about it
        if added:
            install(filled, root / TRACKED, replace=True)
    # Where nothing was added to data that differs from data.dvc, an import before was cut off in between.
    if added or dirty:
        track(root, desc=f"With feedback of {', '.join(path.name for path in files)}")
    for path in files:
        _put_away(path, folder / IMPORTED)
    logger.info("added %d preferences of %d files in %s to %s/", added, len(files), inbox, TRACKED)
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
    check_repository(root)
    md5 = _md5_at(branch, root)
    folder = root / ".rlhf" / "data" / md5.removesuffix(".dir")
    if not folder.is_dir() or dvc_md5(folder) != md5:
        with staged(folder) as filled:
            _fetch(branch, root, filled)
            found = dvc_md5(filled)
            if found != md5:
                raise DataError(
                    f"the data of {branch} came out with the md5 {found}, and its {DVC_FILE} says {md5}; "
                    f"check DVC's cache with `dvc fetch --all-branches`"
                )
            install(filled, folder, replace=True)
    return folder.relative_to(root).as_posix()


def _inbox(inbox: str, root: Path) -> Path:
    folder = (root / inbox).resolve()
    if folder == root.resolve() or not folder.is_relative_to(root.resolve()):
        raise ConfigError(f"retrain.inbox: {inbox} is not a folder below {root}; name one that is")
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; make it, or set retrain.inbox to the one that is there")
    return folder


def _add(files: Sequence[Path], folder: Path) -> int:
    """Append to a data folder's preferences what it does not hold, and say so in its datasheet."""
    preferences = folder / _PREFERENCES
    known = {_identity(row) for _, row in read_rows(preferences, "preferences")}
    added: list[Row] = []
    notes = []
    for path in files:
        rows, left_out = _read(path)
        new = {identity: row for identity, row in rows.items() if identity not in known}
        known |= set(new)
        added += new.values()
        note = f"{path.name}, sha256 {sha256(path)}: {'; '.join([f'{len(new)} preferences added', *left_out])}"
        logger.info("feedback of %s", note)
        notes.append(f"- {note}\n")
    if added:
        _append(preferences, [json.dumps(row, ensure_ascii=False) + "\n" for row in added])
        _append(folder / DATASHEET, ["\n## Added feedback\n", *notes])
    return len(added)


def _append(path: Path, lines: Sequence[str]) -> None:
    text = path.read_bytes()
    with path.open("ab") as file:
        file.write(b"" if not text or text.endswith(b"\n") else b"\n")
        file.writelines(line.encode() for line in lines)


def _read(path: Path) -> tuple[dict[str, Row], list[str]]:
    """Preferences of a file in any format that can be imported, each once; and what of it was left out, and why."""
    with tempfile.TemporaryDirectory(prefix="rlhf-import-") as scratch:
        report = import_dataset(str(path), Path(scratch) / "data")
        rows = {_identity(row): row for _, row in read_rows(report.destination / _PREFERENCES, "preferences")}
    dropped = report.sources[0].dropped.items()
    return rows, [f"{rows.count} left out, because {reason}" for reason, rows in sorted(dropped)]


def _identity(row: Row) -> str:
    return json.dumps({name: value for name, value in row.items() if name != "source"}, sort_keys=True)


def _put_away(path: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    target = folder / path.name
    path.rename(target if not target.exists() else folder / f"{sha256(path)[:12]}-{path.name}")


def _md5_at(branch: str, root: Path) -> str:
    command = ["git", "show", f"{branch}:./{DVC_FILE}"]
    shown = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if shown.returncode:
        raise DataError(
            f"{DVC_FILE} of the git branch {branch} cannot be read ({shown.stderr.strip()}); "
            f"fetch the branch, or set retrain.branch to one that has it"
        )
    try:
        md5: str = yaml.safe_load(shown.stdout)["outs"][0]["md5"]
    except (yaml.YAMLError, TypeError, KeyError, IndexError) as error:
        raise DataError(f"{DVC_FILE} of the git branch {branch} is not DVC's ({error!r}); mend it there") from None
    return md5


def _fetch(branch: str, root: Path, folder: Path) -> None:
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexError

    try:
        files = DVCFileSystem(repo=str(root), rev=branch)
        for path in files.find(f"/{TRACKED}"):
            files.get_file(path, str(folder / Path(path).relative_to(f"/{TRACKED}")))
    except (DvcException, DataIndexError, OSError) as error:
        raise DataError(
            f"the data of the git branch {branch} is neither in DVC's cache nor in a remote ({error}); "
            f"run `dvc fetch --all-branches` where it is, or `dvc push` there"
        ) from error

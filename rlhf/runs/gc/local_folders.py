"""Removable files in the project's own folders below `.rlhf`."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

from rlhf.files.locks import is_locked, lock_of
from rlhf.paths import LocalFolder, local_folder, root, stage_folder
from rlhf.runs.gc.items import REMOVED_PREFIX, Kind, Removable, num_bytes
from rlhf.runs.gc.retention import Needs
from rlhf.tracking.records import RunRecord
from rlhf.tracking.tags import FINGERPRINT_TAG, KIND_TAG, STAGE_TAG

_OUTPUT = re.compile(r"runs:/([0-9a-f]{32})/output")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DAY = timedelta(days=1)


def find_in_folders(needs: Needs, runs: Sequence[RunRecord], keep_days: int) -> Iterator[Removable]:
    """Everything below `.rlhf` that no kept run needs."""
    recent = datetime.now(UTC) - timedelta(days=keep_days)
    for find in FINDERS.values():
        yield from find(needs, runs, recent)
    for name in get_args(LocalFolder):
        yield from _leftovers(local_folder(name))


def _checkpoints(needs: Needs, runs: Sequence[RunRecord], recent: datetime) -> Iterator[Removable]:
    known = {
        stage_folder(run.tags.get(STAGE_TAG, ""), run.tags[FINGERPRINT_TAG]).name
        for run in runs
        if FINGERPRINT_TAG in run.tags
    }
    for folder in _folders(local_folder("stages")):
        unknown = folder.name not in known and _changed(folder) >= recent
        if not (folder.name in needs.checkpoints or unknown or is_locked(lock_of(folder))):
            yield _item("checkpoints", folder, "no kept run can go on from it")


def _downloads(needs: Needs, *_: object) -> Iterator[Removable]:
    for folder in _folders(local_folder("artifacts")):
        if _SHA256.fullmatch(folder.name) and folder.name not in needs.sha256s:
            yield _item("downloads", folder, "a copy of what no kept run needs")


def _data_copies(needs: Needs, *_: object) -> Iterator[Removable]:
    wanted = {md5.removesuffix(".dir") for md5 in needs.data}
    yesterday = datetime.now(UTC) - _DAY
    for folder in _folders(local_folder("data")):
        # A run that is about to begin has its copy before it is on record.
        if folder.name not in wanted and _changed(folder) < yesterday:
            yield _item("data copies", folder, "a version that no kept run has read")


def _results(needs: Needs, _: object, recent: datetime) -> Iterator[Removable]:
    for file in _files(local_folder("results")):
        named = set(_OUTPUT.findall(file.read_text(encoding="utf-8", errors="replace")))
        if not named & needs.outputs and (named or _changed(file) < recent):
            yield _item("results", file, "Prefect's word for an output that no kept run needs")


def _reproductions(needs: Needs, runs: Sequence[RunRecord], recent: datetime) -> Iterator[Removable]:
    """The name of a tree ends with the beginning of its own run's id."""
    kept = {run.run_id[:6] for run in runs if run.tags.get(KIND_TAG) == "reproduction" and run.run_id in needs.kept}
    known = {run.run_id[:6] for run in runs if run.tags.get(KIND_TAG) == "reproduction"}
    for folder in _folders(local_folder("reproductions")):
        own = folder.name.rpartition("-")[2]
        if own not in kept and (own in known or _changed(folder) < recent):
            yield _item("reproductions", folder, "the reproduction is over")


def _environments(needs: Needs, *_: object) -> Iterator[Removable]:
    for folder in _folders(local_folder("environments")):
        if folder.name.partition("-")[0] not in needs.locks and not is_locked(lock_of(folder)):
            yield _item("environments", folder, "no kept run has this lock file")


def _model_checks(_: object, __: object, recent: datetime) -> Iterator[Removable]:
    for file in _files(local_folder("models")):
        if _changed(file) < recent:
            yield _item("model checks", file, "old, and made again where the model is used")


def _leftovers(parent: Path) -> Iterator[Removable]:
    """The rests of a removal, a download or a copy that a kill has cut off."""
    yesterday = datetime.now(UTC) - _DAY
    for path in sorted(parent.glob("*")) if parent.is_dir() else ():
        going = path.name.startswith(REMOVED_PREFIX)
        unfinished = path.name.startswith((".", "tmp")) and path.is_dir() and _changed(path) < yesterday
        if going or unfinished:
            yield _item("leftovers", path, "something was cut off")


def _folders(parent: Path) -> list[Path]:
    paths = sorted(parent.glob("*")) if parent.is_dir() else []
    return [path for path in paths if path.is_dir() and not path.name.startswith((".", "tmp"))]


def _files(parent: Path) -> list[Path]:
    return [path for path in sorted(parent.glob("*")) if path.is_file()]


def _changed(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _item(kind: Kind, path: Path, why: str) -> Removable:
    return Removable(kind, path.relative_to(root()).as_posix(), why, num_bytes(path), path=path)


FINDERS: Mapping[LocalFolder, Callable[[Needs, Sequence[RunRecord], datetime], Iterator[Removable]]] = {
    "stages": _checkpoints,
    "artifacts": _downloads,
    "data": _data_copies,
    "results": _results,
    "reproductions": _reproductions,
    "environments": _environments,
    "models": _model_checks,
}
STAYS: tuple[LocalFolder, ...] = ("errors", "judgments", "pipelines", "services", "stores", "unsent")
"""People read these, or later runs do; of them only what was cut off goes."""

"""Carrying a plan out. A kill at any moment leaves a store in which every kept run is whole."""

import shutil
import subprocess
from pathlib import Path

from filelock import FileLock, Timeout

from rlhf.artifacts import remove_output
from rlhf.errors import InputError
from rlhf.housekeeping.data_versions import remove_objects
from rlhf.housekeeping.items import REMOVED_PREFIX, SHARED, Item, Kind
from rlhf.housekeeping.needs import is_working
from rlhf.housekeeping.plan import Plan
from rlhf.project import root, source_root
from rlhf.tracking.trail import facts_where

_LOCKED: tuple[Kind, ...] = ("checkpoints", "environments")


def carry_out(plan: Plan) -> list[str]:
    """Remove what a plan lists.

    Returns:
        What was left after all, and why.

    Raises:
        InputError: another process clears up.
    """
    lock = root() / ".rlhf" / "gc.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            left = [why for item in plan.items if (why := _remove(item, plan)) is not None]
    except Timeout:
        raise InputError(f"another `rlhf gc` is at work ({lock} is held); wait until it is over") from None
    if plan.by_kind().get("reproductions"):
        subprocess.run(["git", "worktree", "prune"], cwd=source_root(), capture_output=True, check=False)
    return left


def _remove(item: Item, plan: Plan) -> str | None:
    """Remove one thing. Returns why it stayed, where it did."""
    begun = _begun_since(plan) if item.kind in SHARED else None
    if begun is not None:
        return f"{item.name}: run {begun} has begun meanwhile and may ask for it, so it stays"
    if item.run_id is not None:
        remove_output(item.run_id)
    elif item.objects:
        stayed = remove_objects(item, plan.needs.data)
        return f"{item.name}: {stayed} files are needed by now, and stay" if stayed else None
    else:
        assert item.path is not None, "an item is an output, files of DVC, or a path"
        return _remove_path(item, item.path)
    return None


def _begun_since(plan: Plan) -> str | None:
    """A pipeline run that was not there when the plan was made."""
    since = int(plan.made.timestamp() * 1000)
    found = facts_where(f"attributes.start_time >= {since} and tags.`rlhf.kind` = 'pipeline'")
    return next((run.run_id for run in found if is_working(run) or run.status == "RUNNING"), None)


def _remove_path(item: Item, path: Path) -> str | None:
    if path.is_file():
        path.unlink()
    elif path.is_dir() and item.kind in _LOCKED:
        try:
            # The lock file stays: another process may be waiting for it.
            with FileLock(path.with_name(f"{path.name}.lock"), timeout=0):
                _remove_folder(path)
        except Timeout:
            return f"{item.name}: a process works in it by now, so it stays"
    elif path.is_dir():
        _remove_folder(path)
    return None


def _remove_folder(folder: Path) -> None:
    """Rename it first, so that nobody takes what a kill leaves of it for whole."""
    going = folder
    if not folder.name.startswith(REMOVED_PREFIX):
        going = folder.with_name(f"{REMOVED_PREFIX}{folder.name}")
        if going.exists():
            shutil.rmtree(going)
        folder.rename(going)
    shutil.rmtree(going)

"""Carrying a plan out. A kill at any moment leaves a store in which every kept run is whole."""

import shutil
from dataclasses import replace
from pathlib import Path

from rlhf.files.git import try_git
from rlhf.files.locks import LockedError, lock_of, locked
from rlhf.paths import source_root, state_folder
from rlhf.runs.gc.dvc_cache import remove_objects
from rlhf.runs.gc.items import REMOVED_PREFIX, Kind, Removable
from rlhf.runs.gc.plan import Plan
from rlhf.tracking.artifacts import remove_output
from rlhf.tracking.run_details import search_runs
from rlhf.tracking.tags import KIND_TAG

_LOCKED: tuple[Kind, ...] = ("checkpoints", "environments")
_NOBODY_ASKS: tuple[Kind, ...] = ("checkpoints", "leftovers")
"""Kinds that a run which has just started does not need: it locks its checkpoints, and leftovers belong to no run."""


def carry_out(plan: Plan) -> list[Removable]:
    """Remove what a plan lists.

    Returns:
        The items that stayed after all, each with the reason as its `why`.

    Raises:
        LockedError: another process clears up.
    """
    lock = state_folder() / "gc.lock"
    with locked(lock, f"another `rlhf gc` is at work ({lock} is held); wait until it is over", timeout=0):
        left = [rest for item in plan.items if (rest := _remove(item, plan)) is not None]
    if plan.by_kind().get("reproductions"):
        try_git(source_root(), "worktree", "prune")
    return left


def _remove(item: Removable, plan: Plan) -> Removable | None:
    """Remove one thing. Returns what stayed of it, where something did."""
    started = _started_since(plan) if item.kind not in _NOBODY_ASKS else None
    if started is not None:
        return replace(item, why=f"run {started} has started meanwhile and may ask for it, so it stays")
    if item.run_id is not None:
        remove_output(item.run_id)
        return None
    if item.objects:
        sizes = remove_objects(item, plan.needs.data)
        why = f"{len(sizes)} files are needed by now, and stay"
        return replace(item, why=why, num_bytes=sum(sizes)) if sizes else None
    assert item.path is not None, "an item is an output, files of DVC, or a path"
    return _remove_path(item, item.path)


def _started_since(plan: Plan) -> str | None:
    """A run of a pipeline, or a reproduction, that was not there when the plan was made; it may be over by now."""
    since = int(plan.made.timestamp() * 1000)
    runs = search_runs(f"attributes.start_time >= {since} and tags.`{KIND_TAG}` != 'stage'")
    return runs[0].run_id if runs else None


def _remove_path(item: Removable, path: Path) -> Removable | None:
    if path.is_file():
        path.unlink()
    elif path.is_dir() and item.kind in _LOCKED:
        try:
            with locked(lock_of(path), timeout=0):
                _remove_folder(path)
        except LockedError:
            return replace(item, why="a process works in it by now, so it stays")
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

"""Pipeline runs by an id, the beginning of one, or a version of a registered policy."""

import difflib
import re

from rlhf.errors import InputError
from rlhf.tracking.deleted import deleted_run
from rlhf.tracking.records import IS_PIPELINE, Condition, RunRecord, RunStore, store_address
from rlhf.tracking.tags import PARENT_TAG, RECIPE_TAG, SEEDS_TAG, STAGE_TAG
from rlhf.tracking.versions import ALIASES, NAMES, aliases, find_version

LEAST_PREFIX = 6
_ID = re.compile(r"[0-9a-f]+")
_NUM_NEAREST = 3
_NUM_LOOKED_AT = 50


def find_in(store: RunStore, text: str) -> str:
    """The id of a pipeline run.

    Args:
        store: where runs are.
        text: its id, or the first characters of it, at least 6; the same of a stage's run, which stands for the
            pipeline run that trained it; or a version, as `rlhf.tracking.versions.find_version` takes it.

    Raises:
        InputError: there is no such run, or several; the message names those that come nearest.
    """
    text = text.strip()
    version = find_version(store, text)
    if version is not None:
        return _of_version(store, version)
    text = text.lower()
    if not _ID.fullmatch(text) or len(text) < LEAST_PREFIX:
        raise InputError(_no_id(store, text))
    return _of_prefix(store, text)


def _of_prefix(store: RunStore, text: str) -> str:
    runs = store.search([Condition("attribute", "run_id", "LIKE", f"{text}%")], _NUM_LOOKED_AT)
    if not runs:
        deleted = store.deleted(text)
        if deleted:
            raise InputError(deleted_run(store_address(), deleted[0]))
        raise InputError(f"there is no run {text}; {_nearest(store, text)}")
    pipelines = {_pipeline_of(run) for run in runs}
    group = next((run for run in runs if run.is_group), None)
    if len(pipelines) > 1:
        several = ", ".join(_described(run) for run in runs[:_NUM_NEAREST])
        more = ", ..." if len(runs) > _NUM_NEAREST else ""
        raise InputError(f"{text} stands for {len(runs)} runs ({several}{more}); give more characters of the id")
    (pipeline,) = pipelines
    if group is not None:
        raise InputError(
            f"run {group.run_id} is a group of several seeds ({group.tags.get(SEEDS_TAG)}), and one pipeline run is "
            f"asked for: `rlhf runs --group {group.run_id[:8]}` lists the runs of the group"
        )
    if pipeline is None:
        raise InputError(
            f"run {runs[0].run_id} is no run of a pipeline or of one of its stages; {_nearest(store, text)}"
        )
    return pipeline


def _of_version(store: RunStore, version: str) -> str:
    run_id = store.version_run(version) or ""
    run = store.runs([run_id]).get(run_id)
    if run is None and run_id in store.deleted(run_id):
        raise InputError(f"version {version}: {deleted_run(store_address(), run_id)}")
    pipeline = _pipeline_of(run) if run else None
    if pipeline is None:
        raise InputError(
            f"version {version} names the run {run_id or '(none)'}, which is gone or is of no pipeline; "
            "give the id of a run that `rlhf runs` lists"
        )
    return pipeline


def _pipeline_of(run: RunRecord) -> str | None:
    return run.run_id if run.is_pipeline else run.tags.get(PARENT_TAG)


def _no_id(store: RunStore, text: str) -> str:
    if _ID.fullmatch(text):
        return f"{text} is too short for an id: give at least {LEAST_PREFIX} characters; {_nearest(store, text)}"
    close = difflib.get_close_matches(text, [*ALIASES, *aliases(store)], n=1)
    meant = f"; did you mean {close[0]}?" if close else f"; {_nearest(store, text)}"
    return (
        f"{text or '(nothing)'} is no run: give the id of a pipeline run, at least its first {LEAST_PREFIX} "
        f"characters, or a version: {NAMES}{meant}"
    )


def _nearest(store: RunStore, text: str) -> str:
    """A sentence with the ids that look most like a text, or else the newest ones."""
    close = _look_alikes(store, text) if _ID.fullmatch(text) else []
    newest = [] if close else store.search([IS_PIPELINE], _NUM_NEAREST)
    if not close and not newest:
        return "there are no runs yet"
    word = "nearest" if close else "newest"
    return f"the {word} ones are {', '.join(map(_described, close or newest))}; `rlhf runs` lists them"


def _look_alikes(store: RunStore, text: str) -> list[RunRecord]:
    """Pipeline runs that share a half or a quarter of the text, the most like it first."""
    alike: dict[str, RunRecord] = {}
    for pieces in (2, 4):
        size = max(2, len(text) // pieces)
        for start in range(0, len(text) - size + 1, size):
            pattern = f"{'_' * start}{text[start : start + size]}%"
            like = [IS_PIPELINE, Condition("attribute", "run_id", "LIKE", pattern)]
            alike |= {run.run_id: run for run in store.search(like, _NUM_LOOKED_AT)}
        if len(alike) >= _NUM_NEAREST:
            break
    ids = {run_id[: len(text)]: run_id for run_id in alike}
    close = difflib.get_close_matches(text, ids, n=_NUM_NEAREST, cutoff=0.6)
    return [alike[ids[beginning]] for beginning in close]


def _described(run: RunRecord) -> str:
    what = run.tags.get(RECIPE_TAG) or run.tags.get(STAGE_TAG) or run.name
    return f"{run.run_id} ({what}, {run.started:%Y-%m-%d %H:%M})"

"""The runs that are kept, and their needs: their own outputs, and outputs of earlier runs that they came from."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rlhf.paths import stage_folder
from rlhf.tracking.client import tracking_uri
from rlhf.tracking.records import GROUP, PIPELINE, RunRecord, is_server
from rlhf.tracking.registry import promotions
from rlhf.tracking.run_details import VersionFacts
from rlhf.tracking.run_locks import is_alive
from rlhf.tracking.tags import (
    DATA_TAG,
    FINGERPRINT_TAG,
    FLOW_RUN_TAG,
    GROUP_TAG,
    KIND_TAG,
    LOCK_TAG,
    OUTPUT_REMOVED_TAG,
    OUTPUT_TAG,
    PARENT_TAG,
    REPRODUCES_TAG,
    STAGE_TAG,
    stage_runs,
)
from rlhf.tracking.versions import policy_version

_STAGE = "stage"
_UNDER_WAY = ("RUNNING", "SCHEDULED")


@dataclass(frozen=True)
class Needs:
    """The things that must stay.

    Attributes:
        kept: why a run is kept, by its id.
        outputs: stages' runs whose output is needed.
        sha256s: of those outputs.
        checkpoints: names of the stages' working folders that a run may go on from.
        data: md5s of versions of the data.
        locks: the beginnings of sha256s of lock files.
        working: pipeline runs and groups that may ask for any output at any moment.
    """

    kept: Mapping[str, str]
    outputs: frozenset[str]
    sha256s: frozenset[str]
    checkpoints: frozenset[str]
    data: frozenset[str]
    locks: frozenset[str]
    working: tuple[str, ...]

    def because(self) -> str:
        """Why runs are kept, counted."""
        counts = Counter(self.kept.values())
        return ", ".join(f"{number} {why}" for why, number in counts.most_common()) or "nothing"


def find_needs(runs: Sequence[RunRecord], versions: Sequence[VersionFacts], keep_days: int) -> Needs:
    """The needs of the champion, the candidate, versions with an alias, runs in flight and runs of the last days.

    Args:
        runs: all that there are.
        versions: of the registered policies.
        keep_days: how many days count as the last.
    """
    by_id = {run.run_id: run for run in runs}
    being_promoted = _being_promoted()
    held = [version for version in versions if version.aliases or version.version in being_promoted]
    kept = dict(_kept(runs, by_id, held, keep_days))
    own = {run.run_id for run in runs if run.tags.get(PARENT_TAG) in kept}
    linked = {stage for run_id in kept for stage in stage_runs(by_id[run_id].tags).values()}
    outputs = _with_inputs(own | linked | {version.run_id for version in held}, by_id)
    references = [_reference(by_id[run_id]) for run_id in outputs if run_id in by_id]
    versions_of_data = {by_id[run_id].tags.get(DATA_TAG) for run_id in kept}
    versions_of_data |= {version.tags.get(DATA_TAG) for version in held}
    versions_of_data |= {reference["source"]["md5"] for reference in references if "source" in reference}
    return Needs(
        kept=kept,
        outputs=frozenset(outputs),
        sha256s=frozenset(reference["sha256"] for reference in references if "sha256" in reference),
        checkpoints=frozenset(_checkpoints(runs, kept)),
        data=frozenset(md5 for md5 in versions_of_data if md5),
        locks=frozenset(by_id[run_id].tags.get(LOCK_TAG, "")[:16] for run_id in kept),
        working=tuple(run.run_id for run in runs if is_working(run)),
    )


def is_working(run: RunRecord) -> bool:
    """Whether a run has a process that may ask for any output: one that lives here, or perhaps elsewhere.

    Between two seeds of a group there is no pipeline run, and the next one will ask.
    """
    if run.tags.get(KIND_TAG) not in (PIPELINE, GROUP):
        return False
    elsewhere = run.status == "RUNNING" and is_server(tracking_uri())
    return elsewhere or is_alive(run.tags.get(FLOW_RUN_TAG) or "-")


def _kept(
    runs: Sequence[RunRecord], by_id: Mapping[str, RunRecord], held: Sequence[VersionFacts], keep_days: int
) -> Iterator[tuple[str, str]]:
    """Runs and why; what comes later in this order has the last word."""
    since = datetime.now(UTC) - timedelta(days=keep_days)
    for run in runs:
        if run.tags.get(KIND_TAG) == _STAGE:
            continue
        under_way = run.status in _UNDER_WAY or is_alive(run.tags.get(FLOW_RUN_TAG) or "-")
        if under_way or max(run.started, run.ended or run.started) >= since:
            why = "in flight" if under_way else f"of the last {keep_days} days"
            yield run.run_id, why
            original = run.tags.get(REPRODUCES_TAG)
            if original in by_id:
                yield str(original), f"reproduced by a run that is {why}"
            if run.tags.get(KIND_TAG) == GROUP:
                members = (one.run_id for one in runs if one.tags.get(GROUP_TAG) == run.run_id)
                yield from ((one, f"of a group that is {why}") for one in members)
    for version in held:
        why = "with an alias in the registry" if version.aliases else "being promoted"
        parent = by_id[version.run_id].tags.get(PARENT_TAG) if version.run_id in by_id else None
        if parent in by_id:
            yield str(parent), why
        # Two runs may have made the same policy.
        yield from ((run.run_id, why) for run in runs if policy_version(run.tags) == version.version)


def _being_promoted() -> set[str | None]:
    pending = [plan for plan in promotions() if plan.state == "pending"]
    return {version for plan in pending for version in (plan.champion, plan.to)}


def _with_inputs(run_ids: Iterable[str], by_id: Mapping[str, RunRecord]) -> set[str]:
    """The runs, and all that they came from."""
    reached: set[str] = set()
    left = set(run_ids)
    while left:
        run_id = left.pop()
        if run_id not in reached and run_id in by_id:
            reached.add(run_id)
            left |= {read.made_by for read in by_id[run_id].inputs.values() if read.made_by}
    return reached


def _reference(run: RunRecord) -> dict[str, Any]:
    text = run.tags.get(OUTPUT_TAG)
    return dict(json.loads(text)) if text else {}


def _checkpoints(runs: Sequence[RunRecord], kept: Mapping[str, str]) -> Iterator[str]:
    """Attempts of kept runs that no run has brought to an end since."""
    ended: dict[str, datetime] = {}
    for run in runs:
        # An output that was removed is made again, so it ends no attempt.
        if run.status == "FINISHED" and OUTPUT_TAG in run.tags and OUTPUT_REMOVED_TAG not in run.tags:
            fingerprint, end = run.tags.get(FINGERPRINT_TAG, ""), run.ended or run.started
            ended[fingerprint] = max(end, ended.get(fingerprint, end))
    for run in runs:
        fingerprint = run.tags.get(FINGERPRINT_TAG, "")
        over = fingerprint in ended and ended[fingerprint] >= run.started
        if fingerprint and run.tags.get(PARENT_TAG) in kept and not over:
            yield stage_folder(run.tags.get(STAGE_TAG, ""), fingerprint).name

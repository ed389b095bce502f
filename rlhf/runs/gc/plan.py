"""The plan of a removal: what can go, and what stays because of which runs. Nothing is touched here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rlhf.errors import InputError
from rlhf.runs.gc.dvc_cache import find_data_versions
from rlhf.runs.gc.items import KINDS, SHARED, Kind, Removable, shown_bytes
from rlhf.runs.gc.local_folders import find_in_folders
from rlhf.runs.gc.retention import Needs, find_needs
from rlhf.runs.gc.store_check import runs_of_the_project
from rlhf.tracking.artifacts import num_output_bytes
from rlhf.tracking.records import RunRecord
from rlhf.tracking.run_details import versions
from rlhf.tracking.tags import KIND_TAG, OUTPUT_REMOVED_TAG, STAGE_TAG

__all__ = ["Plan", "make_plan", "shown_bytes"]
_MOST_DAYS = 36_500


@dataclass(frozen=True)
class Plan:
    """The plan of a removal.

    Attributes:
        items: all of it.
        needs: what stays.
        notes: what was left alone, and why.
        keep_days: how many days of runs are kept.
        made: when the runs were looked at.
    """

    items: tuple[Removable, ...]
    needs: Needs
    notes: tuple[str, ...]
    keep_days: int
    made: datetime

    @property
    def num_bytes(self) -> int:
        """The bytes of all that can go."""
        return sum(item.num_bytes for item in self.items)

    def by_kind(self) -> dict[Kind, list[Removable]]:
        """The items of each kind that there is."""
        kinds = {kind: [item for item in self.items if item.kind == kind] for kind in KINDS}
        return {kind: items for kind, items in kinds.items() if items}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        totals = {kind: sum(item.num_bytes for item in items) for kind, items in self.by_kind().items()}
        return {
            "items": [item.as_dict() for item in self.items],
            "bytes": self.num_bytes,
            "bytes_by_kind": totals,
            "kept": dict(self.needs.kept),
            "notes": list(self.notes),
        }


def make_plan(keep_days: int, remote: str | None = None) -> Plan:
    """Find what no kept run needs.

    Args:
        keep_days: runs of the last days are kept.
        remote: a DVC remote to clear up too.

    Raises:
        InputError: a number of days that makes no sense, no such remote, or a store that may not know all runs.
    """
    if not 0 <= keep_days <= _MOST_DAYS:
        raise InputError(f"--keep-days {keep_days}: give a number of days from 0 to {_MOST_DAYS}")
    made = datetime.now(UTC)
    runs = runs_of_the_project()
    needs = find_needs(runs, versions(), keep_days)
    versions_of_data, notes = find_data_versions(needs.data, remote)
    items = [*find_in_folders(needs, runs, keep_days), *versions_of_data, *_outputs(needs, runs)]
    shared = [item for item in items if item.kind in SHARED]
    if needs.working and shared:
        names = ", ".join(run_id[:12] for run_id in needs.working)
        size = shown_bytes(sum(item.num_bytes for item in shared))
        notes.append(
            f"run {names} is under way and may ask for any earlier output, so outputs of stages and their copies stay "
            f"for now ({len(shared)}, {size}); clear up again once it is over"
        )
        items = [item for item in items if item.kind not in SHARED]
    return Plan(tuple(items), needs, tuple(notes), keep_days, made)


def _outputs(needs: Needs, runs: Sequence[RunRecord]) -> Iterator[Removable]:
    for run in runs:
        if run.tags.get(KIND_TAG) != "stage" or run.run_id in needs.outputs:
            continue
        size = num_output_bytes(run.run_id, run.artifact_uri)
        if size:
            again = " (its removal was cut off)" if OUTPUT_REMOVED_TAG in run.tags else ""
            name = f"{run.tags.get(STAGE_TAG, run.name)}, MLflow run {run.run_id}, {run.started:%Y-%m-%d}"
            yield Removable("stage outputs", name, f"no kept run came from it{again}", size, run_id=run.run_id)

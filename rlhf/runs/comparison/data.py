"""The difference between the data of two runs: rows, where DVC's cache has both versions, and counts of the runs."""

import configparser
from dataclasses import dataclass
from pathlib import Path

from rlhf.errors import DataError
from rlhf.runs.comparison.run_view import RunView
from rlhf.tracking.tags import DATA_DIRTY_TAG, DATA_TAG

_SHORT = 8
_FOLDER = ".dir"


@dataclass(frozen=True)
class RowChanges:
    """Rows of one kind in two versions.

    Attributes:
        old: rows of the first.
        new: rows of the second.
        added: those that the second alone has, by source.
        removed: those that the first alone has, by source.
        changed: those of which another field than prompt and responses differs, by source.
    """

    old: int
    new: int
    added: dict[str, int]
    removed: dict[str, int]
    changed: dict[str, int]


@dataclass(frozen=True)
class DataDifference:
    """Between the data of two runs.

    Attributes:
        md5s: of both versions, as DVC has them; None where a run has read none.
        changes: by kind; None where the versions are the same, or not both at hand.
        rows: read of each kind, by kind, in both; None where that is not known.
        splits: rows of each split after preparation, by `kind/split`, the same way.
        notes: sentences on what is not known, and where to look.
    """

    md5s: tuple[str | None, str | None]
    changes: dict[str, RowChanges] | None
    rows: dict[str, tuple[int | None, int | None]]
    splits: dict[str, tuple[int | None, int | None]]
    notes: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Both have read the same version."""
        return self.md5s[0] == self.md5s[1]


def compare_data(first: RunView, second: RunView, root: Path) -> DataDifference:
    """Compare the data of two runs, as DVC's versions and as the data stage has counted them.

    Args:
        first: a run.
        second: another.
        root: the project's root, whose DVC cache is looked into.
    """
    sides = (first, second)
    md5s = (first.tags.get(DATA_TAG), second.tags.get(DATA_TAG))
    reports = [side.read_report("data", "report.json") for side in sides]
    counted = [report or {} for report in reports]
    notes = [
        f"{side.label}: the report of the data stage is not there, so rows are not known."
        for side, report in zip(sides, reports, strict=True)
        if report is None
    ]
    notes += [
        f"{side.label}: data/ differed from data.dvc, so this version may be kept nowhere."
        for side in sides
        if side.tags.get(DATA_DIRTY_TAG) == "true"
    ]
    changes = None
    old, new = md5s
    if old is not None and new is not None and old != new:
        versions = ((first.label, old), (second.label, new))
        missing = [_missing(label, md5) for label, md5 in versions if not in_cache(md5, root)]
        notes += missing
        try:
            changes = None if missing else _changes(old, new, root)
        except DataError as error:
            notes.append(f"Rows cannot be compared: {error}.")
    return DataDifference(
        md5s,
        changes,
        _side_by_side(counted[0].get("rows", {}), counted[1].get("rows", {})),
        _side_by_side(counted[0].get("splits", {}), counted[1].get("splits", {})),
        tuple(notes),
    )


def _side_by_side(first: dict[str, int], second: dict[str, int]) -> dict[str, tuple[int | None, int | None]]:
    return {name: (first.get(name), second.get(name)) for name in dict.fromkeys((*first, *second))}


def _changes(first: str, second: str, root: Path) -> dict[str, RowChanges]:
    from rlhf.data.versions.diff import compare_versions

    difference = compare_versions(root, first.removesuffix(_FOLDER), second.removesuffix(_FOLDER))
    return {
        kind: RowChanges(rows.old, rows.new, dict(rows.added), dict(rows.removed), dict(rows.changed))
        for kind, rows in difference.kinds.items()
    }


def _missing(label: str, md5: str) -> str:
    return (
        f"{label}: version {md5[:_SHORT]} is not in DVC's cache, so its rows cannot be read; "
        f"`rlhf data diff {md5.removesuffix(_FOLDER)}` brings it where a remote has it."
    )


def in_cache(md5: str, root: Path) -> bool:
    """A look for a version in DVC's cache, taken without DVC, whose import takes seconds."""
    config = configparser.ConfigParser(interpolation=None)
    config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    folder = root / ".dvc" / config.get("cache", "dir", fallback="cache")
    return (folder / "files" / "md5" / md5[:2] / md5[2:]).is_file()

"""Changes between two versions of data/, read line by line: of a row only its digests are kept."""

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from filecmp import cmp
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rlhf.data.evaluation_sets import FOLDER
from rlhf.data.schema import (
    ALL_KINDS,
    DATASHEET,
    KINDS,
    OPTIONAL_FIELDS,
    RANKING_FIELDS,
    REQUIRED_FIELDS,
    Row,
    check_row,
    is_ranking,
    parse_line,
)
from rlhf.data.versions.history import find_version
from rlhf.data.versions.label_counts import Labels
from rlhf.data.versions.repository import TRACKED, check_repository
from rlhf.data.versions.stores import fetch, stores
from rlhf.data.versions.transaction import writing
from rlhf.errors import DataError
from rlhf.files.hashing import dvc_md5
from rlhf.files.limits import lines_within
from rlhf.files.names import open_regular
from rlhf.text.markdown import escape, table

Digests = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
NO_SOURCE = "(none)"
_encode = json.JSONEncoder(sort_keys=True).encode


@dataclass(frozen=True)
class Side:
    """A version that is compared.

    Attributes:
        name: as the person gave it, or `data/`.
        md5: of the version.
        files: of the data folder, by name: in the cache, or in data/.
    """

    name: str
    md5: str
    files: Mapping[str, Path]


@dataclass
class KindDiff:
    """The changes among the rows of one kind.

    Attributes:
        old: rows before.
        new: rows after.
        added: rows that there are now, by source.
        removed: rows that there were, by source.
        changed: rows whose prompt and responses stayed and another field did not, by their source now.
        fields: how many of them each field changed in.
    """

    old: int = 0
    new: int = 0
    added: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    fields: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class DataDiff:
    """The changes between two versions.

    Attributes:
        old: the first version.
        new: the second.
        kinds: what changed, by kind.
        labels: how the preferences of both are distributed: old, new.
        datasheet_changed: the datasheet is another one.
        sets: evaluation sets that differ, by `evaluation/NAME.jsonl`: added, removed or changed.
    """

    old: Side
    new: Side
    kinds: dict[str, KindDiff]
    labels: tuple[Labels, Labels]
    datasheet_changed: bool
    sets: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        old, new = self.labels
        return {
            "old": {"name": self.old.name, "md5": self.old.md5},
            "new": {"name": self.new.name, "md5": self.new.md5},
            "rows": {
                kind: {name: dict(v) if isinstance(v, Counter) else v for name, v in vars(rows).items()}
                for kind, rows in self.kinds.items()
            },
            "labels": {"old": old.figures(), "new": new.figures()},
            "datasheet_changed": self.datasheet_changed,
            "evaluation_sets": dict(self.sets),
        }

    def as_markdown(self) -> str:
        """For a person."""
        parts = [
            f"# Data: {escape(self.old.name)} ({self.old.md5[:8]}) to {escape(self.new.name)} ({self.new.md5[:8]})"
        ]
        counts = [
            [kind, str(d.old), str(d.new), f"+{d.added.total()}", f"-{d.removed.total()}", str(d.changed.total())]
            for kind, d in self.kinds.items()
        ]
        parts.append(table(["rows", "old", "new", "added", "removed", "changed"], counts))
        parts.append(_by_source(self.kinds))
        changed = [[kind, name, str(n)] for kind, d in self.kinds.items() for name, n in sorted(d.fields.items())]
        if changed:
            parts.append(table(["changed rows of", "field", "rows"], changed))
        old, new = (labels.figures() for labels in self.labels)
        parts.append(table(["preferences", "old", "new"], _moved(old, new)))
        if self.datasheet_changed:
            parts.append("The datasheet changed.")
        if self.sets:
            parts.append(table(["evaluation set", "is"], [[escape(name), how] for name, how in self.sets.items()]))
        return "\n\n".join(part for part in parts if part)


def compare_versions(root: Path, old: str, new: str | None = None) -> DataDiff:
    """Compare two versions.

    Args:
        root: the project's root, a git and DVC repository.
        old: git revision, tag, or the beginning of an md5.
        new: the same; data/ as it is where None.

    Raises:
        DataError: there is no such version, its data cannot be had, or a row cannot be read.
    """
    check_repository(root)
    # data/ is read twice, and must not be replaced in between.
    with writing(root) if new is None else nullcontext():
        return _compare(_recorded(old, root), _working(root) if new is None else _recorded(new, root))


def _compare(old: Side, new: Side) -> DataDiff:
    kinds = [kind for kind in ALL_KINDS if kind in KINDS or f"{kind}.jsonl" in {*old.files, *new.files}]
    compared = {
        kind: _compare_files(kind, old.files.get(f"{kind}.jsonl"), new.files.get(f"{kind}.jsonl")) for kind in kinds
    }
    differences = {kind: rows for kind, (rows, _) in compared.items()}
    sheets = [side.files[DATASHEET].read_bytes() if DATASHEET in side.files else b"" for side in (old, new)]
    labels = compared["preferences"][1]
    return DataDiff(old, new, differences, labels, sheets[0] != sheets[1], dict(_compare_sets(old.files, new.files)))


def _compare_sets(old: Mapping[str, Path], new: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    for name in sorted(name for name in {*old, *new} if name.startswith(f"{FOLDER}/")):
        if name not in old or name not in new:
            yield name, "added" if name in new else "removed"
        elif not cmp(old[name], new[name], shallow=False):
            yield name, "changed"


def unmatched_rows(left: Digests, right: Digests) -> Mask:
    """The rows of the left without a partner on the right, where each is the partner of one row alone."""
    order = np.argsort(left, kind="stable")
    ordered, others = left[order], np.sort(right)
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered, "left")
    held = np.searchsorted(others, ordered, "right") - np.searchsorted(others, ordered, "left")
    mask = np.empty(len(ordered), dtype=np.bool_)
    mask[order] = rank >= held
    return mask


@dataclass
class _Rows:
    """Rows whose lines one version alone has: their digests, and an index of their sources."""

    kind: str
    columns: dict[str, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    sources: "array[int]" = field(default_factory=lambda: array("L"))
    names: dict[str, int] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        fields = RANKING_FIELDS if is_ranking(row) else REQUIRED_FIELDS[self.kind]
        parts = {"pair": _digest(_encode([row[name] for name in fields]).encode())}
        parts |= {name: _digest_of_value(row.get(name)) for name in OPTIONAL_FIELDS[self.kind]}
        for name, part in parts.items():
            self.columns[name] += part
        # A row has no other fields.
        self.columns["whole"] += _digest(b"".join(parts.values()))
        self.sources.append(self.names.setdefault(str(row.get("source", NO_SOURCE)), len(self.names)))

    def digests(self, column: str = "whole") -> Digests:
        return np.frombuffer(bytes(self.columns[column]), dtype=np.uint64)

    def by_source(self, rows: npt.NDArray[np.int64]) -> Counter[str]:
        names = list(self.names)
        counts = np.bincount(np.asarray(self.sources, dtype=np.int64)[rows], minlength=len(names))
        return Counter({name: int(count) for name, count in zip(names, counts, strict=True) if count})


def _compare_files(kind: str, old: Path | None, new: Path | None) -> tuple[KindDiff, tuple[Labels, Labels]]:
    old_lines, new_lines = _line_digests(old), _line_digests(new)
    old_only, new_only = unmatched_rows(old_lines, new_lines), unmatched_rows(new_lines, old_lines)
    before, after, old_labels = _Rows(kind), _Rows(kind), Labels()
    is_labelled = kind == "preferences"
    for number, row, is_old_only in _read(old, old_only, every=is_labelled):
        counters = [*([old_labels.add] if is_labelled else []), *([before.add] if is_old_only else [])]
        _count(row, counters, kind, f"{old}:{number}")
    new_labels = deepcopy(old_labels)
    # What both versions have was counted once.
    for _, row, _ in _read(old, old_only) if is_labelled else ():
        new_labels.add(row, -1)
    for number, row, _ in _read(new, new_only):
        _count(row, [after.add, *([new_labels.add] if is_labelled else [])], kind, f"{new}:{number}")
    rows = _compare_rows(before, after)
    rows.old, rows.new = len(old_lines), len(new_lines)
    return rows, (old_labels, new_labels)


def _compare_rows(before: _Rows, after: _Rows) -> KindDiff:
    # The same row may be another line: the order of its fields, or how its characters are written.
    old = np.flatnonzero(unmatched_rows(before.digests(), after.digests()))
    new = np.flatnonzero(unmatched_rows(after.digests(), before.digests()))
    pairs_old, pairs_new = before.digests("pair")[old], after.digests("pair")[new]
    removed, added = unmatched_rows(pairs_old, pairs_new), unmatched_rows(pairs_new, pairs_old)
    # Both in the order of what they share, so that the first is the first one's other form.
    old_changed = old[~removed][np.argsort(pairs_old[~removed], kind="stable")]
    new_changed = new[~added][np.argsort(pairs_new[~added], kind="stable")]
    differing = {
        name: int((before.digests(name)[old_changed] != after.digests(name)[new_changed]).sum())
        for name in OPTIONAL_FIELDS[before.kind]
    }
    return KindDiff(
        added=after.by_source(new[added]),
        removed=before.by_source(old[removed]),
        changed=after.by_source(new_changed),
        fields=Counter({name: count for name, count in differing.items() if count}),
    )


def _line_digests(path: Path | None) -> Digests:
    digests = bytearray()
    if path is not None:
        with open_regular(path) as file:
            for line in lines_within(file, path.name):
                digests += _digest(line.rstrip(b"\r\n"))
    return np.frombuffer(bytes(digests), dtype=np.uint64)


def _read(path: Path | None, wanted: Mask, every: bool = False) -> Iterator[tuple[int, Row, bool]]:
    """Line number, row, and whether it is wanted; without `every`, those that are."""
    if path is None or not (every or wanted.any()):
        return
    with open_regular(path) as file:
        for number, (line, is_wanted) in enumerate(
            zip(lines_within(file, path.name), wanted.tolist(), strict=True), start=1
        ):
            if every or is_wanted:
                yield number, parse_line(line, f"{path}:{number}"), is_wanted


def _count(row: Row, counters: Sequence[Callable[[Row], None]], kind: str, where: str) -> None:
    try:
        for count in counters:
            count(row)
    except (AttributeError, IndexError, KeyError, TypeError):
        check_row(row, kind, where)  # says what is wrong with it
        raise


def _digest(text: bytes) -> bytes:
    """Eight bytes that stand for a text: two of ten million share theirs once in 400,000 comparisons."""
    return blake2b(text, digest_size=8).digest()


@lru_cache(maxsize=10_000, typed=True)
def _digest_of_value(value: str | float | None) -> bytes:
    """The digest of a field whose values come again and again, such as the annotator."""
    return _digest(repr(value).encode(errors="surrogatepass"))


def _recorded(name: str, root: Path) -> Side:
    md5 = find_version(name, root)
    with stores(root) as dvc:
        files = {file: Path(dvc.cache.path(digest)) for file, digest in fetch(md5, dvc).items()}
    return Side(name, md5, files)


def _working(root: Path) -> Side:
    folder = root / TRACKED
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; bring it with `rlhf data pull`, or name a second version")
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return Side(f"{TRACKED}/", dvc_md5(folder), files)


def _by_source(kinds: Mapping[str, KindDiff]) -> str:
    rows = [
        [kind, escape(source), f"+{diff.added[source]}", f"-{diff.removed[source]}", str(diff.changed[source])]
        for kind, diff in kinds.items()
        for source in sorted({*diff.added, *diff.removed, *diff.changed})
    ]
    return table(["kind", "source", "added", "removed", "changed"], rows) if rows else "No row differs."


def _moved(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[list[str]]:
    """The old and the new value of each figure of the labels."""
    for name in ("chosen_is_longer", "with_margin", "mean_margin", "annotators", "rankings"):
        yield [name.replace("_", " "), _shown(old[name]), _shown(new[name])]
    for title, name in (("source", "share_by_source"), ("criteria", "criteria")):
        for value in sorted({*old[name], *new[name]}):
            yield [f"{title} {escape(value)}", _shown(old[name].get(value, 0)), _shown(new[name].get(value, 0))]


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)

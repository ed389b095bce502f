"""Something that can go, and how sizes are said."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

Kind = Literal[
    "checkpoints",
    "stage outputs",
    "downloads",
    "data copies",
    "results",
    "reproductions",
    "environments",
    "model checks",
    "data versions",
    "leftovers",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
SHARED: tuple[Kind, ...] = ("stage outputs", "downloads", "data copies", "results")
"""Kinds that a run which is under way may ask for although nothing says so yet."""
REMOVED_PREFIX = ".removed-"
"""A folder that is on its way out has this before its name, so that nobody takes what is left of it for whole."""


@dataclass(frozen=True)
class Removable:
    """Something that no kept run needs.

    Attributes:
        kind: of what.
        name: where it is, for people.
        why: no run needs it, or it stays after all.
        num_bytes: that it takes.
        path: the file or folder; None for what is in a store.
        run_id: the stage's run whose output it is.
        objects: md5s in a store of DVC.
        remote: that store; None for the cache.
    """

    kind: Kind
    name: str
    why: str
    num_bytes: int
    path: Path | None = None
    run_id: str | None = None
    objects: tuple[str, ...] = field(default=(), repr=False)
    remote: str | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        values = vars(self) | {"path": str(self.path) if self.path else None, "objects": len(self.objects)}
        return {key: value for key, value in values.items() if value not in (None, 0) or key == "num_bytes"}


def num_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(_sizes(path))


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        if path.is_symlink() or path.is_file():
            yield path.lstat().st_size


def shown_bytes(number: int) -> str:
    """A size for people."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} bytes"

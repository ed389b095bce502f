"""The ledger of a check: what it has looked at, and its findings, each by name, with what it should be and is."""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.files.hashing import dvc_md5, sha256

GONE = "gone"


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was logged.

    Attributes:
        where: stage and run, or place, that it belongs to.
        what: name of the file, parameter or tag.
        expected: what it should be.
        found: what it is.
    """

    where: str
    what: str
    expected: str
    found: str


@dataclass
class Ledger:
    """The books of one verification.

    Attributes:
        checked: how many of each kind were looked at.
        findings: what is not as it was logged.
        notes: what could not be looked at, and why.
        num_bytes: bytes hashed.
        seconds: spent hashing.
    """

    checked: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_bytes: int = 0
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """All is as it was logged."""
        return not self.findings

    @property
    def megabytes_per_second(self) -> float:
        """The speed at which files were hashed; 0 without files."""
        return self.num_bytes / 1e6 / self.seconds if self.seconds else 0.0

    def compare(self, kind: str, where: str, what: str, expected: object, found: object) -> bool:
        """Count a check, and write down where the two differ. Returns whether they are the same."""
        self.checked[kind] += 1
        if expected == found:
            return True
        self.findings.append(Finding(where, what, _shown(expected), _shown(found)))
        return False

    def sha256(self, path: Path) -> str:
        """The sha256 of a file, with its bytes and seconds counted."""
        started = time.perf_counter()
        hashed = sha256(path)
        self._count(path, started)
        return hashed

    def md5(self, path: Path) -> str:
        """DVC's md5 of a file or folder, counted too."""
        started = time.perf_counter()
        hashed = dvc_md5(path)
        self._count(path, started)
        return hashed

    def files(self, folder: Path) -> dict[str, str]:
        """The sha256 of every file below a folder, by its path there."""
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return {name: self.sha256(folder / name) for name in names}

    def add(self, other: "Ledger") -> None:
        """Take over what another has."""
        self.checked += other.checked
        self.findings += other.findings
        self.notes += other.notes
        self.num_bytes += other.num_bytes
        self.seconds += other.seconds

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "sound": self.sound,
            "findings": [vars(finding) for finding in self.findings],
            "notes": self.notes,
            "checked": dict(self.checked),
            "mb_hashed": round(self.num_bytes / 1e6, 3),
            "mb_per_second": round(self.megabytes_per_second, 1),
        }

    def _count(self, path: Path, started: float) -> None:
        self.seconds += time.perf_counter() - started
        files = path.rglob("*") if path.is_dir() else [path]
        self.num_bytes += sum(file.stat().st_size for file in files if file.is_file())


def _shown(value: object) -> str:
    return GONE if value is None else str(value)

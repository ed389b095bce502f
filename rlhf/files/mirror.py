"""A copy of a folder at an address, such as `s3://BUCKET/FOLDER`, from which another host goes on.

Files lie there under their sha256, and a list that is written last says which of them the folder has. So a copy is
whole or is the one before, and what has not changed is not sent again.
"""

import json
import posixpath
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from rlhf.errors import ArtifactMismatchError
from rlhf.files.atomic import new_folder
from rlhf.files.hashing import name_below, sha256
from rlhf.files.names import below

_LIST = "files.json"
_OBJECTS = "objects"
_UNFINISHED = ".partial"


@dataclass(frozen=True)
class Listing:
    """The files of a folder as they were at a moment.

    Attributes:
        stamps: size in bytes and time of the last change in ns of each, by relative path.
    """

    stamps: Mapping[str, tuple[int, int]]

    def holds(self, folder: Path) -> bool:
        """Whether these files are still there and unchanged; there may be others by now."""
        now = list_files(folder).stamps
        return all(now.get(name) == stamp for name, stamp in self.stamps.items())


def list_files(folder: Path) -> Listing:
    """The files of a folder, without what is being written."""
    stamps = {}
    for path in folder.rglob("*"):
        name = name_below(path, folder)
        if _UNFINISHED in name:
            continue
        try:
            status = path.stat()
        except FileNotFoundError:  # removed meanwhile
            continue
        if path.is_file():
            stamps[name] = (status.st_size, status.st_mtime_ns)
    return Listing(stamps)


class Mirror:
    """A copy of a folder.

    Args:
        address: of the copy; everything below it belongs to it.
    """

    def __init__(self, address: str) -> None:
        self._files, self._base = fsspec.core.url_to_fs(address)
        self._known: dict[tuple[str, int, int], str] = {}

    def push(self, folder: Path, listing: Listing) -> bool:
        """Copy files of a folder. The copy before stays where they change meanwhile.

        Returns:
            Whether they were copied.
        """
        try:
            digests = {name: self._sha256(folder, name, stamp) for name, stamp in listing.stamps.items()}
            there = self._sizes()
            for name, digest in digests.items():
                if there.get(digest) != listing.stamps[name][0]:
                    self._files.put_file(str(folder / name), self._object(digest))
        except FileNotFoundError:
            return False
        if not listing.holds(folder):
            return False
        self._files.pipe_file(posixpath.join(self._base, _LIST), json.dumps(digests).encode())
        unneeded = there.keys() - set(digests.values())
        if unneeded:
            self._files.rm([self._object(digest) for digest in unneeded])
        return True

    def names(self) -> list[str]:
        """Relative paths of the files that the copy has; none where there is no copy."""
        return sorted(self._list())

    def fetch(self, folder: Path) -> None:
        """Put the copy into the place of a folder, whole or not at all.

        Raises:
            ArtifactMismatchError: a file is gone, or is not what was copied.
        """
        digests = self._list()
        with new_folder(folder) as temporary:
            for name, digest in digests.items():
                path = below(temporary, name, f"the list of {self._base}")
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    self._files.get_file(self._object(digest), str(path))
                except FileNotFoundError:
                    raise ArtifactMismatchError(f"{self._object(digest)} is gone; remove {self._base}") from None
                if sha256(path) != digest:
                    raise ArtifactMismatchError(
                        f"{self._object(digest)} is not what was copied there; remove {self._base}"
                    )

    def remove(self) -> None:
        """Remove the copy."""
        if self._files.exists(self._base):
            self._files.rm(self._base, recursive=True)

    def check(self) -> None:
        """Write a file, read it and remove it, so that what keeps it from working is known at the start.

        Raises:
            OSError: of the system or library behind the address.
        """
        probe = posixpath.join(self._base, f"probe-{uuid.uuid4().hex}")
        self._make(self._base)
        self._files.pipe_file(probe, b"probe")
        read = self._files.cat_file(probe)
        self._files.rm(probe)
        if read != b"probe":
            raise OSError("it gave back something else than was written to it")

    def _make(self, folder: str) -> None:
        """Make a folder. Other storages have no folders, and S3's would make a bucket."""
        if isinstance(self._files, LocalFileSystem):
            self._files.makedirs(folder, exist_ok=True)

    def _sha256(self, folder: Path, name: str, stamp: tuple[int, int]) -> str:
        key = (name, *stamp)
        if key not in self._known:
            self._known[key] = sha256(folder / name)
        return self._known[key]

    def _object(self, digest: str) -> str:
        return posixpath.join(self._base, _OBJECTS, digest)

    def _sizes(self) -> dict[str, int]:
        """The size of each object that is there, by its sha256."""
        folder = posixpath.join(self._base, _OBJECTS)
        self._make(folder)
        self._files.invalidate_cache()
        entries: list[dict[str, Any]] = self._files.ls(folder, detail=True) if self._files.exists(folder) else []
        return {posixpath.basename(entry["name"]): int(entry["size"]) for entry in entries if entry["type"] == "file"}

    def _list(self) -> dict[str, str]:
        self._files.invalidate_cache()
        try:
            digests: dict[str, str] = json.loads(self._files.cat_file(posixpath.join(self._base, _LIST)))
        except FileNotFoundError:
            return {}
        return digests

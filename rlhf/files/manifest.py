"""The list of a folder's files: a line `sha256  relative/path` for each, which `sha256sum --check` reads."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from rlhf.files.atomic import write_file
from rlhf.files.disk import sync
from rlhf.files.hashing import altered_files, name_below, sha256

_MANIFEST = "manifest.sha256"


def hash_files(folder: Path) -> dict[str, str]:
    """The sha256 of each file of a folder, by relative path, sorted.

    Raises:
        InputError: the name of a file is no text.
    """
    names = sorted(name_below(path, folder) for path in folder.rglob("*") if path.is_file())
    return {name: sha256(folder / name) for name in names}


def manifest_of_files(files: Mapping[str, str]) -> str:
    """The list of files, sorted by path.

    Args:
        files: the sha256 of each, by relative path.
    """
    return "".join(f"{files[name]}  {name}\n" for name in sorted(files))


def read_manifest(manifest: str) -> dict[str, str]:
    """The sha256 of each file that a manifest lists, by relative path."""
    return {name: sha256 for sha256, _, name in (line.partition("  ") for line in manifest.split("\n") if line)}


def folder_manifest(folder: Path) -> str:
    """The manifest of a folder.

    Raises:
        InputError: the name of a file is no text.
    """
    return manifest_of_files(hash_files(folder))


def manifest_sha256(manifest: str) -> str:
    """The sha256 that a folder with this manifest has."""
    return hashlib.sha256(manifest.encode()).hexdigest()


def files_sha256(files: Mapping[str, str]) -> str:
    """The sha256 that a folder with these files has."""
    return manifest_sha256(manifest_of_files(files))


def folder_sha256(folder: Path) -> str:
    """The sha256 of a folder: of its manifest."""
    return manifest_sha256(folder_manifest(folder))


def write_manifest(folder: Path) -> None:
    """Bring a folder's files to the disk, then write their manifest beside them: the folder is complete from now on."""
    files = hash_files(folder)
    for name in files:
        sync(folder / name)
    write_file(folder / _MANIFEST, manifest_of_files(files))
    sync(folder)


def is_complete(folder: Path) -> bool:
    """Whether a folder has all that `write_manifest` found in it, unchanged."""
    if not (folder / _MANIFEST).is_file():
        return False
    files = read_manifest((folder / _MANIFEST).read_text(encoding="utf-8", errors="replace"))
    return bool(files) and not altered_files(folder, files)

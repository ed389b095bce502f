"""Content hashes: DVC's kind for data folders and files, sha256 for what is imported and for what stages leave."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from rlhf.errors import check_name
from rlhf.files.names import open_regular

_IGNORED_FOLDERS = (".dvc", ".git", ".hg")


def dvc_md5(path: Path) -> str:
    """The hash that `dvc add` writes for a folder or a file, computed without DVC.

    Of a folder it is the md5 of DVC's manifest (the sorted relative paths with the md5 of each file), and ends with
    `.dir`. A `.dvcignore` is not looked at.

    Raises:
        InputError: the name of a file is no text, or something there is no regular file.
    """
    if not path.is_dir():
        return _hash_file(path, "md5")
    entries = [{"md5": _hash_file(file, "md5"), "relpath": name_below(file, path)} for file in _files(path)]
    manifest = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True)
    return hashlib.md5(manifest.encode(), usedforsecurity=False).hexdigest() + ".dir"


def sha256(path: Path) -> str:
    """The sha256 of a file.

    Raises:
        InputError: it is no regular file.
    """
    return _hash_file(path, "sha256")


def altered_files(folder: Path, digests: Mapping[str, str]) -> list[Path]:
    """Files of a folder that are missing or no longer have their sha256, given by relative path."""
    paths = {folder / name: digest for name, digest in digests.items()}
    return [path for path, digest in paths.items() if not path.is_file() or sha256(path) != digest]


def name_below(file: Path, folder: Path) -> str:
    """A file's path relative to a folder, with `/` between its parts.

    Raises:
        InputError: the name is no text.
    """
    name = file.relative_to(folder).as_posix()
    check_name(name, f"in {folder}")
    return name


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _IGNORED_FOLDERS]
        yield from (Path(parent) / name for name in names)


def _hash_file(path: Path, algorithm: str) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()

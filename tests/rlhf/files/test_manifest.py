"""The list of a folder's files."""

import hashlib
from pathlib import Path

import pytest

from rlhf.files.manifest import (
    files_sha256,
    folder_manifest,
    folder_sha256,
    hash_files,
    is_complete,
    manifest_of_files,
    read_manifest,
    write_manifest,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c d.txt").write_text("abc")
    (tmp_path / "b-a").write_text("")  # as text before b/c, as a path behind it
    return tmp_path


def test_a_manifest_is_read_as_it_was_written(folder: Path) -> None:
    files = hash_files(folder)
    digests = [hashlib.sha256(content).hexdigest() for content in (b"", b"abc")]
    assert list(files.items()) == [("b-a", digests[0]), ("b/c d.txt", digests[1])]
    assert folder_manifest(folder) == manifest_of_files(dict(reversed(files.items())))
    assert read_manifest(folder_manifest(folder)) == files
    assert folder_sha256(folder) == files_sha256(files)
    assert read_manifest("") == {}


def test_a_folder_is_complete_once_its_manifest_is_written(folder: Path) -> None:
    assert not is_complete(folder)
    write_manifest(folder)
    assert is_complete(folder)


@pytest.mark.parametrize("manifest", ["", "cut off", "\ufffd  b-a\n"])
def test_a_damaged_manifest_is_of_no_complete_folder(folder: Path, manifest: str) -> None:
    write_manifest(folder)
    (folder / "manifest.sha256").write_text(manifest)
    assert not is_complete(folder)

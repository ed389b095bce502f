"""Room on the disk before training."""

import shutil
from pathlib import Path

import pytest

from rlhf.errors import DiskSpaceError
from rlhf.files.disk import check_room


def test_what_fits_is_let_through(tmp_path: Path):
    check_room(tmp_path, 1, "checkpoints")


def test_what_does_not_fit_is_refused_with_both_sizes(tmp_path: Path):
    wanted = shutil.disk_usage(tmp_path).free + 2**40
    with pytest.raises(DiskSpaceError, match=r"checkpoints take up to [\d.]+ GiB, and [\d.]+ GiB are free; make room"):
        check_room(tmp_path, wanted, "checkpoints")


def test_what_is_there_already_counts_as_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "weights").write_bytes(b"w" * 1000)
    usage = type(shutil.disk_usage(tmp_path))(10_000, 9_500, 500)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    check_room(tmp_path, 1500, "checkpoints")
    with pytest.raises(DiskSpaceError):
        check_room(tmp_path, 1501, "checkpoints")

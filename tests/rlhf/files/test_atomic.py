"""Files and folders that appear whole or not at all."""

import os
from pathlib import Path

import pytest

from rlhf.files.atomic import new_folder, write_file


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    for content, written in (("é\n", "é\n".encode()), (b"\xff", b"\xff")):
        write_file(path, content)
        assert path.read_bytes() == written
    assert _names(path.parent) == ["a.txt"]


def test_a_file_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "a.txt", "")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_what_cannot_be_written_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_file(path, "\ud800")
    assert (_names(tmp_path), path.read_text()) == (["a"], "old")


def test_a_folder_takes_the_place_of_another_with_nothing_of_it(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with new_folder(tmp_path / "f") as folder:
            (folder / name).write_text(name)
            assert not (tmp_path / "f" / name).exists()
    assert (_names(tmp_path), _names(tmp_path / "f")) == (["f"], ["second"])


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    with new_folder(tmp_path / "f") as folder:
        (folder / "old").touch()
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "f") as folder:
        (folder / "new").write_text(str(1 / 0))
    assert (_names(tmp_path), _names(tmp_path / "f")) == (["f"], ["old"])


def test_what_a_killed_writer_left_is_gone(tmp_path: Path) -> None:
    for left in ("f.partial", "f.partial.replaced"):
        (tmp_path / left / "deep").mkdir(parents=True)
    with new_folder(tmp_path / "f") as folder:
        assert _names(folder) == []
    assert _names(tmp_path) == ["f"]

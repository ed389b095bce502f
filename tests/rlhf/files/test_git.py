"""Git, asked in a folder."""

import os
import subprocess
from pathlib import Path

import pytest

from rlhf.files.git import GitError, as_names, as_text, git, try_git

_ODD = os.fsdecode(b"n\xf6 *\n.py")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / _ODD).write_text("x")
    return tmp_path


def test_names_of_any_bytes_lead_to_their_files(tree: Path) -> None:
    (name,) = as_names(git(tree, "ls-files", "--others", "-z"))
    assert name == _ODD
    assert (tree / name).read_text() == "x"


def test_text_that_is_not_utf8_is_shown() -> None:
    assert as_text(b" M\xf6ller\x1f\n") == "M\ufffdller\x1f"


def test_what_git_refuses_is_one_error_that_names_command_folder_and_reason(tree: Path) -> None:
    with pytest.raises(GitError, match=r"^`git show nothing` failed in .*: fatal: .*'nothing'") as caught:
        git(tree, "show", "nothing")
    assert caught.value.reason.startswith("fatal: ")
    assert try_git(tree, "show", "nothing") is None


def test_no_folder_and_no_git_are_the_same_error(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GitError, match="No such file or directory"):
        git(tree / "gone", "status")
    monkeypatch.setenv("PATH", str(tree))
    assert try_git(tree, "status") is None


def test_another_index_leaves_the_repository_s_own(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    index = tmp_path_factory.mktemp("scratch") / "index"
    git(tree, "add", "--all", index=index)
    assert as_names(git(tree, "ls-files", "-z", index=index)) == [_ODD]
    assert as_names(git(tree, "ls-files", "-z")) == []

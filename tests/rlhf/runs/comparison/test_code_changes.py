"""Commits and patches between runs, in a real git repository."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from compared_runs import MakeRun

from rlhf.runs.comparison.code import MAX_COMMITS, compare_code
from rlhf.runs.comparison.run_view import RunView
from rlhf.tracking.files import log_content

Sides = Callable[..., list[RunView]]


@pytest.fixture
def repository(empty_repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(empty_repository, tmp_path / "repository"))


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


def commit(repository: Path, name: str, text: str, subject: str) -> str:
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).write_text(text)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", subject)
    return git(repository, "rev-parse", "HEAD").strip()


def tags(sha: str, *, dirty: bool = False) -> dict[str, str]:
    return {"mlflow.source.git.commit": sha, "rlhf.git_dirty": str(dirty).lower()}


def test_commits_on_two_branches(make_run: MakeRun, sides: Sides, repository: Path):
    commit(repository, "rlhf/a.py", "1\n", "Root")
    git(repository, "branch", "other")
    first = commit(repository, "rlhf/a.py", "2\n", "On main")
    git(repository, "checkout", "--quiet", "other")
    commit(repository, "notes.md", "x\n", "One")
    second = commit(repository, "tasks/b.py", "x\ny\n", "Two")
    found = compare_code(*sides(make_run(tags=tags(first)), make_run(tags=tags(second))), repository)
    assert found.only is not None
    assert [line.partition(" ")[2] for line in found.only[0].lines] == ["On main"]
    assert [line.partition(" ")[2] for line in found.only[1].lines] == ["Two", "One"]
    assert found.only[1].number == 2
    assert found.changes == "3 files changed, 4 insertions(+), 1 deletion(-)"
    assert found.num_source_files == 2
    assert found.is_same is False
    assert found.notes == ()


def test_many_commits_are_counted(make_run: MakeRun, sides: Sides, repository: Path):
    first = git(repository, "rev-parse", "HEAD").strip()
    for number in range(MAX_COMMITS + 3):
        second = commit(repository, "n", str(number), f"Number {number}")
    found = compare_code(*sides(make_run(tags=tags(first)), make_run(tags=tags(second))), repository)
    assert found.only is not None
    assert (len(found.only[1].lines), found.only[1].number) == (MAX_COMMITS, MAX_COMMITS + 3)
    assert (found.only[0].lines, found.only[0].number) == ((), 0)


def test_the_same_commit_with_and_without_a_patch(make_run: MakeRun, sides: Sides, repository: Path):
    sha = commit(repository, "rlhf/a.py", "1\n2\n", "Root")
    clean, dirty = make_run(tags=tags(sha)), make_run(tags=tags(sha, dirty=True))
    (repository / "rlhf" / "a.py").write_text("1\n3\n4\n")
    (repository / "rlhf" / "picture").write_bytes(b"\0\1")
    git(repository, "add", "--intent-to-add", "rlhf/picture")
    patch = subprocess.run(["git", "diff", "--binary"], cwd=repository, check=True, capture_output=True).stdout
    log_content(dirty, patch, "provenance/code.patch")
    record = {"code": {"patch_sha256": "x", "left_out": ["my.key"]}}
    log_content(dirty, json.dumps(record).encode(), "provenance/record.json")
    found = compare_code(*sides(clean, dirty), repository)
    assert found.patches[0] is None
    assert found.patches[1] is not None
    assert found.patches[1].files == (("rlhf/a.py", 2, 1), ("rlhf/picture", None, None))
    assert found.patches[1].left_out == ("my.key",)
    assert (found.only, found.is_same, found.notes) == (None, False, ())
    again = make_run(tags=tags(sha, dirty=True))
    log_content(again, patch, "provenance/code.patch")
    assert compare_code(*sides(dirty, again), repository).is_same is True
    assert compare_code(*sides(clean, make_run(tags=tags(sha))), repository).is_same is True


@pytest.mark.parametrize("patch", [None, b"no patch at all"])
def test_a_patch_that_is_not_there_is_said(make_run: MakeRun, sides: Sides, repository: Path, patch: bytes | None):
    sha = commit(repository, "a", "1", "Root")
    clean, dirty = make_run(tags=tags(sha)), make_run(tags=tags(sha, dirty=True))
    if patch:
        log_content(dirty, patch, "provenance/code.patch")
    found = compare_code(*sides(clean, dirty), repository)
    assert found.is_same is None
    assert found.notes == (
        "B: the working tree differed from the commit, and no patch of it that can be read was recorded.",
    )


def test_a_commit_that_is_not_here_is_said(make_run: MakeRun, sides: Sides, repository: Path):
    here = git(repository, "rev-parse", "HEAD").strip()
    found = compare_code(*sides(make_run(tags=tags(here)), make_run(tags=tags("b" * 40))), repository)
    assert (found.only, found.changes, found.is_same) == (None, "", False)
    assert "B: commit bbbbbbbbb is not in this clone" in found.notes[0]
    found = compare_code(*sides(make_run(tags=tags("")), make_run(tags=tags(here))), repository)
    assert found.notes == ("A: the code was in no git commit.",)
    assert found.is_same is None

"""Folders of the project that are links to another disk: results may be there, data may not, and code is not lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.cli.main import main
from rlhf.provenance.code import git_state, working_patch
from rlhf.tracking.stores import open_store

HERE = Path(__file__).resolve().parents[2]


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def move_behind_a_link(folder: Path, elsewhere: Path) -> None:
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout as this project's: git holds an empty file in mlruns."""
    folder = tmp_path / "checkout"
    for name in ("rlhf/loss.py", "rlhf/data/rows.py", "mlruns/.gitkeep"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / ".gitignore").write_text("/mlruns/*\n!/mlruns/.gitkeep\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "First")
    return folder


def test_results_behind_a_link_are_no_change_of_the_code(checkout: Path, tmp_path: Path):
    """Row 12: with `mlruns` as a link to a bigger disk, every run ended in a traceback of `git add`."""
    move_behind_a_link(checkout / "mlruns", tmp_path / "elsewhere")
    assert not git_state(checkout).dirty
    patch = working_patch(checkout)
    assert (patch.content, patch.left_out) == (b"", ())
    (checkout / "rlhf" / "loss.py").write_text("x = 1\n")
    assert git_state(checkout).dirty
    patch = working_patch(checkout)
    assert patch.left_out == ()
    assert b"+x = 1" in patch.content


def test_code_behind_a_link_is_named(checkout: Path, tmp_path: Path):
    """Row 12: what git does not take from behind a link is left out, and said to be."""
    move_behind_a_link(checkout / "rlhf" / "data", tmp_path / "elsewhere")
    (checkout / "rlhf" / "loss.py").write_text("x = 1\n")
    patch = working_patch(checkout)
    assert patch.left_out == ("rlhf/data/rows.py",)
    assert b"+x = 1" in patch.content


def test_a_run_with_results_on_another_disk(embedded_project: Path, tmp_path: Path):
    """Row 12: a stage runs, and its results are found."""
    move_behind_a_link(embedded_project / "mlruns", tmp_path / "elsewhere")
    command = [sys.executable, "-m", "rlhf.cli", "stage", "data", str(HERE / "configs" / "smoke.yaml"), "--json"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)["run_id"]
    assert run in open_store().runs([run])
    assert main(["gc"]) == 0
    assert (tmp_path / "elsewhere" / "artifacts").is_dir()


def test_what_git_says_where_it_refuses(
    project_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Row 12: the message named the command and its exit code, and not git's reason."""

    def refuse(root: Path) -> None:
        subprocess.run(["git", "add", "no-such-file"], cwd=project_root, check=True, capture_output=True)

    monkeypatch.setattr("rlhf.cli.data.status", refuse)
    assert main(["data", "status"]) == 2
    assert "pathspec 'no-such-file' did not match any files" in capsys.readouterr().err


def test_data_behind_a_link_is_refused(embedded_project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Row 12: DVC tracks folders and not links, which the message says, with what to do."""
    move_behind_a_link(embedded_project / "data", tmp_path / "elsewhere")
    for action in (["status"], ["pull"], ["import", str(tmp_path / "rows.jsonl"), "--replace"]):
        assert main(["data", *action]) == 2, action
        said = capsys.readouterr().err
        assert "data: this is a link to" in said
        assert "--data.path" in said
    assert (embedded_project / "data").is_symlink()

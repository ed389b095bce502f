"""Runs made again from their ids, on a fresh clone that has only the MLflow store and the DVC remote.

`make test-services` makes the hardest of three again (own data, other settings, a tree with changes), `make soak` all.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rlhf.paths import in_project
from rlhf.tracking.client import client, experiment_id

REPOSITORY = Path(__file__).parents[2]
STAGES = ["data", "sft", "reward_model", "reward_audit", "policy", "evaluation", "model_card"]

pytestmark = [pytest.mark.services, pytest.mark.timeout(1200)]
CHANGED = "changed tree"
Made = tuple["Project", dict[str, str]]


@dataclass(frozen=True)
class Project:
    """A repository with the project's own code, and its command line."""

    root: Path
    server: dict[str, str]

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.root, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    @property
    def environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "2"}
        left_out = ("RLHF_ROOT", "PREFECT_HOME")
        return {name: value for name, value in os.environ.items() if name not in left_out} | own | self.server

    def rlhf(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "rlhf.cli", *arguments]
        return subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False)

    def run(self, *arguments: str) -> str:
        done = self.rlhf("run", "configs/smoke.yaml", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["run_id"])

    def reproduce(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        done = self.rlhf("reproduce", "--json", *arguments)
        assert done.returncode == code, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result


def make_project(folder: Path, remote: Path, server: dict[str, str]) -> Project:
    """The project as it is in this working tree, with a history of its own and a DVC remote."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, check=True, capture_output=True).stdout.decode().split("\0")
    for name in names:
        if name and (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    project = Project(folder, server)
    project.git("init", "--quiet", "--initial-branch=main")
    (folder / ".dvc" / "config").write_text(f"[core]\n    remote = here\n['remote \"here\"']\n    url = {remote}\n")
    return project


def feedback(root: Path, file: Path, number: int) -> Path:
    """The first of the preferences, as a file that somebody hands in."""
    rows = (root / "data" / "preferences.jsonl").read_text().splitlines(keepends=True)[:number]
    file.write_text("".join(rows))
    return file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, client_environment: dict[str, str]) -> Made:
    """A fresh clone, and a run that was made elsewhere, of a changed tree."""
    return make_runs(tmp_path_factory.mktemp("reproduce"), client_environment, {CHANGED})


@pytest.fixture(scope="module")
def all_made(tmp_path_factory: pytest.TempPathFactory, client_environment: dict[str, str]) -> Made:
    """A fresh clone, and runs that were made elsewhere: at one commit, at a second, and of a changed tree."""
    wanted = {"first commit", "other data and settings", CHANGED}
    return make_runs(tmp_path_factory.mktemp("reproduce"), client_environment, wanted)


def make_runs(folder: Path, server: dict[str, str], wanted: set[str]) -> Made:
    project = make_project(folder / "project", folder / "remote", server)
    project.commit("One")
    runs = {}

    def run(name: str, *arguments: str) -> None:
        if name in wanted:
            runs[name] = project.run(*arguments)

    run("first commit")
    assert project.rlhf("data", "pull").returncode == 0
    given = feedback(project.root, folder / "given.jsonl", 900)
    imported = project.rlhf("data", "import", str(given), "--replace")
    assert imported.returncode == 0, imported.stderr
    project.commit("Other data")
    subprocess.run([sys.executable, "-m", "dvc", "push", "--quiet"], cwd=project.root, check=True)
    run("other data and settings", "--data.embedded", "none", "--rl.kl-coef", "0.3", "--seed", "1")

    loss = project.root / "rlhf" / "rl" / "loss.py"
    loss.write_text(loss.read_text() + "\nfrom rlhf.rl import new_code  # noqa: E402, F401\n")
    (loss.parent / "new_code.py").write_text("NEW = 1\n")
    smoke = project.root / "rlhf" / "config" / "rl.py"
    smoke.write_text(smoke.read_text().replace("gae_lambda: Probability = 0.95", "gae_lambda: Probability = 0.9"))
    (project.root / "notes.txt").write_text("of no concern\n")
    run(CHANGED, "--data.embedded", "none", "--seed", "2")

    clone = Project(folder / "clone", server)
    subprocess.run(["git", "clone", "--quiet", str(project.root), str(clone.root)], check=True)
    shutil.copytree(project.root / "mlruns", clone.root / "mlruns", dirs_exist_ok=True)
    shutil.rmtree(project.root)
    return clone, runs


def test_a_run_on_a_fresh_clone_is_identical(made: Made):
    check_identical(*made, CHANGED)


@pytest.mark.soak
@pytest.mark.parametrize("which", ["first commit", "other data and settings", CHANGED])
def test_any_run_on_a_fresh_clone_is_identical(all_made: Made, which: str):
    check_identical(*all_made, which)


def check_identical(clone: Project, runs: dict[str, str], which: str) -> None:
    result = clone.reproduce(runs[which])
    assert result["verdict"] == "identical", result["reason"]
    assert [stage["name"] for stage in result["stages"]] == STAGES
    for stage in result["stages"]:
        assert stage["weights_then"] == stage["weights_now"]
        assert stage["num_equal_metrics"] == stage["num_metrics"]
        assert stage["other_files"] == []
    by_name = {stage["name"]: stage for stage in result["stages"]}
    assert all(by_name[name]["weights_now"] for name in ("sft", "reward_model", "policy", "model_card"))
    assert by_name["policy"]["num_metrics"] > 20
    assert result["environment"] == []
    assert result["kept_in"] is None
    assert list((clone.root / ".rlhf" / "reproductions").iterdir()) == []
    assert clone.git("worktree", "list", "--porcelain").count("worktree ") == 1
    assert not (clone.root / "data").exists(), "the clone's own data is left alone"


@pytest.mark.soak
def test_with_other_threads_it_is_not_called_identical_and_told_why(all_made: Made):
    clone, runs = all_made
    done = clone.rlhf("reproduce", "--json", runs["first commit"], "--threads", "1", "--stage", "policy")
    result = json.loads(done.stdout)
    assert done.returncode == (1 if result["verdict"] == "different" else 0)
    assert result["verdict"] != "identical"
    assert result["environment"] == ["num_threads: 2 then, 1 now"]
    assert "num_threads: 2 then, 1 now" in result["reason"]
    # How large a model is decides whether its sums are split by threads; small ones come out the same.
    same = "the same to the bit, but the environment is another" in result["reason"]
    assert same or "is the first stage that came out otherwise" in result["reason"]
    assert same == (result["kept_in"] is None)


def test_one_stage_from_the_recorded_outputs(made: Made):
    clone, runs = made
    result = clone.reproduce(runs[CHANGED], "--stage", "policy")
    assert result["verdict"] == "identical", result["reason"]
    assert [stage["name"] for stage in result["stages"]] == ["policy"]


def test_a_reproduction_is_a_run_that_names_the_original(made: Made):
    """That of the first test."""
    clone, runs = made
    with in_project(clone.root):
        own = client()
        which = f"tags.`rlhf.reproduces` = '{runs[CHANGED]}'"
        run = own.search_runs([experiment_id()], which, order_by=["start_time ASC"])[0]
        assert (run.info.status, run.data.tags["rlhf.verdict"]) == ("FINISHED", "identical")
        assert {file.path for file in own.list_artifacts(run.info.run_id)} == {"reproduction.json", "reproduction.md"}
        original = own.get_run(runs[CHANGED])
    assert original.data.tags["rlhf.reproduction"].startswith("identical, run ")


def test_what_is_missing_is_named_before_anything_is_done(made: Made):
    clone, runs = made
    config = clone.root / ".dvc" / "config"
    before = config.read_text()
    for folder in (clone.root / ".dvc" / "cache", clone.root / ".rlhf"):
        shutil.rmtree(folder, ignore_errors=True)
    config.write_text(before.replace("remote\n", "moved\n"))
    try:
        done = clone.rlhf("reproduce", runs[CHANGED])
    finally:
        config.write_text(before)
    assert done.returncode == 2
    assert "cannot be made again:" in done.stderr
    assert "moved" in done.stderr
    assert not (clone.root / ".rlhf" / "reproductions").exists()

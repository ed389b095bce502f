"""The disk of a project, or that of MLflow's server, is full in a stage; with room again all ends with the same bits.

`make soak` fills both disks in all stages; tests/security/test_full_disk.py has one stage for CI.
"""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from crashing import KNOBS, SECONDS, config, crash, undisturbed
from small_disk import SmallDisk, small_disk
from smoke_runs import weights
from started_services import ROOT, Up, make_project, services, wait_for

MEGABYTES = 500
ENDS = ("Completed", "Failed", "Crashed")


@dataclass(frozen=True)
class Served:
    """`rlhf up`, whose MLflow server has a small disk, and the policy of a run that was left alone."""

    up: Up
    disk: SmallDisk
    expected: str

    def fill(self, up: Up, run_id: str) -> None:
        """Until the run ends; then a person makes room and retries it."""
        with self.disk.kept_full():
            wait_for(lambda: up.state(run_id) in ENDS, 300)
        state = up.flow_run(run_id)["state"]
        assert state["name"] == "Failed"
        assert "the disk is full" in state["message"]
        assert "make room there" in state["message"]
        assert "\n" not in state["message"]
        up.set_state(run_id, {"type": "SCHEDULED", "name": "AwaitingRetry"})


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, migrated_mlflow: Path, registered_prefect: Path, embedded_data: Path
) -> Path:
    folder = tmp_path_factory.mktemp("small-disks") / "project"
    return make_project(folder, embedded_data, migrated_mlflow, registered_prefect)


@pytest.fixture(scope="module")
def served(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    here = Path(shutil.copytree(project, folder / "project"))
    with small_disk(folder / "store", MEGABYTES) as disk:
        shutil.copytree(here / "mlruns", disk.folder, dirs_exist_ok=True)
        shutil.rmtree(here / "mlruns")
        (here / "mlruns").symlink_to(disk.folder)
        with services(here) as up:
            yield Served(up, disk, undisturbed(up))
            up.stop()


def number_of(stage: str) -> int:
    return 400 + [*KNOBS].index(stage)


def fill_mlflows_disk(served: Served, stage: str) -> None:
    number = number_of(stage)
    seconds = random.Random(number).uniform(0, SECONDS[stage])
    crash(served.up, served.fill, stage, number, seconds, served.expected)


def stages(store: Path) -> dict[str, list[tuple[str, str]]]:
    """Run id and status of each stage's runs in MLflow's database, the newest first; none while there is none."""
    found: dict[str, list[tuple[str, str]]] = {}
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "SELECT value, run_uuid, status FROM tags JOIN runs USING (run_uuid) WHERE key = 'rlhf.stage' "
                "ORDER BY start_time DESC"
            )
            for stage, run_id, status in rows:
                found.setdefault(stage, []).append((run_id, status))
    except sqlite3.OperationalError:
        return {}
    return found


@pytest.fixture(scope="module")
def expected(project: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The policy of a run whose disk had room."""
    folder = tmp_path_factory.mktemp("expected")
    here = Path(shutil.copytree(project, folder / "project", symlinks=True))
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(config()))
    subprocess.run([sys.executable, "-m", "rlhf.cli", "run", str(recipe)], env=environment(here), cwd=ROOT, check=True)
    return policy_of(here)


def environment(project: Path) -> dict[str, str]:
    """Of a command whose stores are all of the project."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")}
    return kept | {"RLHF_ROOT": str(project), "PREFECT_HOME": str(project / ".prefect")}


def policy_of(project: Path) -> str:
    """sha256 of the weights that the newest run of a project ended with."""
    cards = stages(project / "mlruns" / "mlflow.db")["model_card"]
    return weights(project, next(run_id for run_id, status in cards if status == "FINISHED"))


def fill_the_projects_disk(project: Path, folder: Path, stage: str, expected: str) -> None:
    """`rlhf run` in a terminal, where project, results, MLflow's and Prefect's databases are on one disk."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(config(**KNOBS[stage](number_of(stage)))))
    with small_disk(folder / "disk", MEGABYTES) as disk:
        shutil.copytree(project, disk.folder, dirs_exist_ok=True, symlinks=True)
        store = disk.folder / "mlruns" / "mlflow.db"
        command = [sys.executable, "-m", "rlhf.cli", "run", str(recipe)]

        def start() -> subprocess.Popen[str]:
            pipe = subprocess.PIPE
            return subprocess.Popen(
                command, env=environment(disk.folder), cwd=ROOT, stdout=pipe, stderr=pipe, text=True
            )

        run = start()
        wait_for(lambda: stage in stages(store) or run.poll() is not None, 300, every=0.02)
        begun = time.monotonic()
        with disk.kept_full():
            _, said = run.communicate(timeout=300)
        print(f"{stage}: ended {time.monotonic() - begun:.1f} s after its disk was full")
        assert run.returncode == 2, said
        assert "Traceback" not in said, said
        lines = {line for line in said.splitlines() if line.startswith("rlhf: error: ")}
        assert len(lines) == 1, said
        line = lines.pop()
        assert f"{disk.folder}" in line
        assert "the disk is full" in line
        again = start()
        _, said = again.communicate(timeout=300)
        assert again.returncode == 0, said
        with closing(sqlite3.connect(store)) as database:
            assert database.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone() == (0,)
        assert policy_of(disk.folder) == expected


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", KNOBS)
def test_the_disk_of_mlflows_server_is_full_in_every_stage(served: Served, stage: str):
    fill_mlflows_disk(served, stage)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", KNOBS)
def test_the_disk_of_a_project_is_full_in_every_stage(expected: str, project: Path, tmp_path: Path, stage: str):
    fill_the_projects_disk(project, tmp_path, stage, expected)

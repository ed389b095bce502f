"""Runs in processes of their own that are told to stop, are killed, or meet another that wants the same."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient
from started_services import wait_until_gone

from rlhf.tracking.client import EXPERIMENT, tracking_uri

SCRIPT = Path(__file__).with_name("waiting_flow.py")
Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def file(project_root: Path) -> Path:
    """The file that the stage waits for."""
    return project_root / ".rlhf" / "go"


@pytest.fixture
def start(project_root: Path, file: Path, migrated_prefect: Path) -> Iterator[Start]:
    """Starts runs, and sees to it that none is left."""
    shutil.copytree(migrated_prefect, project_root / ".prefect")
    processes = []

    def begin() -> "subprocess.Popen[str]":
        environment = os.environ | {"PREFECT_HOME": str(project_root / ".prefect")}
        command = [sys.executable, str(SCRIPT), str(file)]
        processes.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=project_root
            )
        )
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    file.touch()


def flow_run_states(project_root: Path) -> list[str]:
    connection = sqlite3.connect(project_root / ".prefect" / "prefect.db")
    try:
        return [name for (name,) in connection.execute("SELECT state_name FROM flow_run ORDER BY created")]
    finally:
        connection.close()


def mlflow_states() -> list[str]:
    client = MlflowClient(tracking_uri())
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return [run.info.status for run in client.search_runs([experiment.experiment_id], order_by=["start_time ASC"])]


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.soak), signal.SIGTERM])
def test_told_to_stop_it_is_cancelled_and_goes_on_later(
    number: signal.Signals, start: Start, file: Path, project_root: Path
):
    run = start()
    assert read_line(run) == "waiting"
    (server,) = psutil.Process(run.pid).children()
    run.send_signal(number)
    run.communicate(timeout=120)
    assert run.returncode == (143 if number == signal.SIGTERM else -signal.SIGINT)
    wait_until_gone([server])
    assert flow_run_states(project_root) == ["Cancelled"]
    assert mlflow_states() == ["KILLED", "KILLED"]

    go(file)
    again = start()
    assert [read_line(again), read_line(again)] == ["resumed", "trained"]


def test_killed_it_leaves_no_server_and_the_next_run_closes_its_books(start: Start, file: Path, project_root: Path):
    run = start()
    assert read_line(run) == "waiting"
    (server,) = psutil.Process(run.pid).children()
    run.kill()
    wait_until_gone([server])
    assert mlflow_states() == ["RUNNING", "RUNNING"]

    go(file)
    again = start()
    assert [read_line(again), read_line(again)] == ["resumed", "trained"]
    assert mlflow_states() == ["KILLED", "KILLED", "FINISHED", "FINISHED"]


@pytest.mark.soak  # test_many_runs has four
def test_of_two_runs_one_trains_and_the_other_waits(start: Start, file: Path, project_root: Path):
    first = start()
    assert read_line(first) == "waiting"
    second = start()
    deadline = time.monotonic() + 120
    while mlflow_states().count("RUNNING") < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1)
    assert mlflow_states() == ["RUNNING"] * 3
    go(file)
    assert [read_line(first), read_line(second)] == ["trained", "cached"]
    first.communicate(timeout=120)
    second.communicate(timeout=120)
    assert mlflow_states() == ["FINISHED"] * 3

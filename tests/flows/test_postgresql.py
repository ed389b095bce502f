"""`rlhf up --database` on a PostgreSQL server of the test's own, with several runs at a time."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from started_services import free_port, services
from test_services import recipe, stages_of

pytestmark = pytest.mark.services
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def as_postgres(*command: object) -> list[str]:
    """PostgreSQL refuses to run as root."""
    words = [str(word) for word in command]
    return ["runuser", "-u", "postgres", "--", *words] if os.geteuid() == 0 else words


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty database."""
    if not PROGRAMS:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder, port = Path("/tmp") / f"rlhf-postgresql-{os.getpid()}", free_port()
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    program, data = PROGRAMS[-1], folder / "data"
    subprocess.run(
        as_postgres(program / "initdb", "-D", data, "-A", "trust", "-U", "rlhf"), check=True, capture_output=True
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off"
    control = [program / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
    subprocess.run(as_postgres(*control, "-o", options, "start"), check=True, capture_output=True)
    try:
        with psycopg.connect(f"postgresql://rlhf@127.0.0.1:{port}/postgres", autocommit=True) as connection:
            connection.execute("CREATE DATABASE pipeline")
        yield f"postgresql://rlhf@127.0.0.1:{port}/pipeline"
    finally:
        subprocess.run(as_postgres(*control, "-m", "immediate", "stop"), check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def test_four_runs_at_once_all_complete(embedded_project: Path, database: str):
    with services(embedded_project, "--database", database) as up:
        # Two of them share the data stage and SFT, so one trains what the other finds.
        settings = [recipe(kl_budget=budget) for budget in (20, 21, 20, 22)]
        for number, parameters in enumerate(settings):
            parameters["config"]["seed"] = number // 2
        runs = [up.submit("smoke", parameters) for parameters in settings]
        assert [up.wait_until_ended(run, 480) for run in runs] == ["Completed"] * 4, [up.log(run) for run in runs]
        trained = [name for run in runs for name, state in stages_of(up, run).items() if state == "trained"]
        # One data set, two of SFT and of the reward models, one PPO a run.
        assert [trained.count(name) for name in ("data", "sft", "reward_model", "ppo")] == [1, 2, 2, 4]
        for name in ("prefect", "mlflow", "worker"):
            log = (embedded_project / ".rlhf" / "services" / f"{name}.log").read_text(errors="replace")
            assert "database is locked" not in log
            assert "deadlock" not in log
        with psycopg.connect(database) as connection:
            tables = connection.execute("SELECT schemaname, tablename FROM pg_tables").fetchall()
        assert {("prefect", "flow_run"), ("mlflow", "runs")} <= set(tables)
        up.stop()

"""`rlhf up --database` on a PostgreSQL server of the test's own: several runs at a time, and that server killed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
import pytest
from crashing import KNOBS, NUM_MOMENTS, crash, seconds_into, undisturbed
from postgresql_server import Server, postgresql
from smoke_runs import long_run, recipe, stages_of
from started_services import Up, make_project, services, wait_for


@pytest.fixture
def database() -> Iterator[Server]:
    with postgresql() as server:
        yield server


def kill_for_a_while(database: Server, up: Up, run_id: str) -> None:
    """It is gone for five seconds. Where Prefect could not do without it, a person clicks Retry."""
    database.kill()
    time.sleep(5)
    database.start()
    wait_for(lambda: up.reachable() and up.state(run_id) in ("Completed", "Failed", "Crashed"), 300)
    if up.state(run_id) != "Completed":
        up.retry(run_id)


@dataclass(frozen=True)
class Soak:
    """What all crashes of the soak share: servers on one database, and the policy of a run that was left alone."""

    up: Up
    database: Server
    expected: str


@pytest.fixture(scope="module")
def soak(tmp_path_factory: pytest.TempPathFactory, registered_prefect: Path, embedded_data: Path) -> Iterator[Soak]:
    root = make_project(tmp_path_factory.mktemp("postgresql") / "project", embedded_data, None, registered_prefect)
    with postgresql() as server, services(root, "--database", server.url) as up:
        yield Soak(up, server, undisturbed(up))


@pytest.mark.services
def test_two_runs_at_once_share_what_they_can(embedded_project: Path, database: Server):
    with services(embedded_project, "--database", database.url) as up:
        runs = [up.submit("data", recipe()) for _ in range(2)]
        assert [up.wait_until_ended(run, 480) for run in runs] == ["Completed"] * 2, [up.log(run) for run in runs]
        assert sorted(stages_of(up, run)["data"] for run in runs) == ["cached", "trained"]
        for name in ("prefect", "mlflow", "worker"):
            log = (embedded_project / ".rlhf" / "services" / f"{name}.log").read_text(errors="replace")
            assert "database is locked" not in log
            assert "deadlock" not in log
        with psycopg.connect(database.url) as connection:
            tables = connection.execute("SELECT schemaname, tablename FROM pg_tables").fetchall()
        assert {("prefect", "flow_run"), ("mlflow", "runs")} <= set(tables)
        up.stop()


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_database_may_be_killed_and_come_back(embedded_project: Path, database: Server):
    with services(embedded_project, "--database", database.url) as up:
        run_id = up.submit("smoke", long_run())
        wait_for(lambda: up.checkpoints("policy-*"), 240)
        kill_for_a_while(database, up, run_id)
        wait_for(lambda: up.state(run_id) == "Completed", 300)
        wanted = {"data", "sft", "reward_model", "reward_audit", "policy", "evaluation", "model_card"}
        assert set(stages_of(up, run_id)) == wanted
        with psycopg.connect(database.url) as connection:
            runs = connection.execute("SELECT status, count(*) FROM mlflow.runs GROUP BY status").fetchall()
        assert "RUNNING" not in {status for status, _ in runs}, runs
        up.stop()


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("moment", range(NUM_MOMENTS))
@pytest.mark.parametrize("stage", KNOBS)
def test_a_killed_database_in_every_stage(soak: Soak, stage: str, moment: int):
    number = 300 + [*KNOBS].index(stage) * NUM_MOMENTS + moment
    crash(
        soak.up,
        partial(kill_for_a_while, soak.database),
        stage,
        number,
        seconds_into(stage, moment, number),
        soak.expected,
    )

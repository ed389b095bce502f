"""Crashes for real: a process, a server or the whole machine is killed in a stage, and the run ends with the same bits.

`make test-services` kills once per kind that no other test has, in a stage and at a moment that a seed decides, which
is always the same; a crash that only missed heartbeats tell of is left to the soak.
`make soak` kills each kind in every stage at three moments, which are others at every call; their seed is printed.
RLHF_CRASH_SEED sets either. A server that hangs does so for 20 seconds, in the soak for five minutes.
"""

import contextlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from crashing import KNOBS, NUM_MOMENTS, SECONDS, SEED, crash, go_on, seconds_into, undisturbed
from started_services import Up, make_project

HANG_SECONDS = float(os.environ.get("RLHF_HANG_SECONDS", "20"))


def kill_flow(up: Up, run_id: str) -> None:
    up.process_of(run_id).kill()
    go_on(up, run_id)


def kill_machine(up: Up, run_id: str) -> None:
    up.kill()
    up.start()
    assert up.state(run_id) == "Crashed"
    go_on(up, run_id)


def kill_worker(up: Up, run_id: str) -> None:
    """The flow's process ends itself once its worker is gone, and supervisord starts another worker."""
    named(up, "worker").kill()
    go_on(up, run_id)


def kill_flow_and_worker(up: Up, run_id: str) -> None:
    """Nobody is left who could tell Prefect. Its automation misses the heartbeats, after two minutes."""
    flow = up.process_of(run_id)
    named(up, "worker").kill()
    flow.kill()
    go_on(up, run_id)


def kill_prefect(up: Up, run_id: str) -> None:
    kill_with_children(named(up, "flows.servers.prefect_app"))


def kill_mlflow(up: Up, run_id: str) -> None:
    kill_with_children(named(up, "/mlflow", "server"))


def hang_prefect(up: Up, run_id: str) -> None:
    hang(named(up, "flows.servers.prefect_app"))


def hang_mlflow(up: Up, run_id: str) -> None:
    hang(named(up, "/mlflow", "server"))


def hang(process: psutil.Process) -> None:
    """It listens and does not answer. After a minute `rlhf up` starts it again, and there is nothing left to wake."""
    held = [process, *process.children(recursive=True)]
    for one in held:
        one.suspend()
    time.sleep(HANG_SECONDS)
    for one in held:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.resume()


KINDS = {
    "flow": kill_flow,
    "machine": kill_machine,
    "worker": kill_worker,
    "flow and worker": kill_flow_and_worker,
    "prefect server": kill_prefect,
    "mlflow server": kill_mlflow,
    "prefect hangs": hang_prefect,
    "mlflow hangs": hang_mlflow,
}


def named(up: Up, *words: str) -> psutil.Process:
    """One of supervisord's own children, by words of its command line or their ends."""
    (supervisord,) = up.supervised()
    return next(
        one
        for one in psutil.Process(supervisord).children()
        if all(any(part.endswith(word) for part in one.cmdline()) for word in words)
    )


def kill_with_children(process: psutil.Process) -> None:
    for one in (process, *process.children(recursive=True)):
        one.kill()


@pytest.fixture(scope="module")
def up(
    tmp_path_factory: pytest.TempPathFactory, migrated_mlflow: Path, migrated_prefect: Path, embedded_data: Path
) -> Iterator[Up]:
    folder = make_project(
        tmp_path_factory.mktemp("crashes") / "project", embedded_data, migrated_mlflow, migrated_prefect
    )
    started = Up(folder)
    started.start()
    yield started
    started.end()


@pytest.fixture(scope="module")
def expected(up: Up) -> str:
    return undisturbed(up)


# test_services meets the others: a flow and a machine that are killed, and an MLflow server that goes.
IN_CI = ("worker", "prefect server", "prefect hangs", "mlflow hangs")


@pytest.mark.services
@pytest.mark.parametrize("kind", IN_CI)
def test_a_crash_of_each_kind(up: Up, expected: str, kind: str):
    draw = random.Random(f"{SEED} {kind}")
    stage = draw.choice([*KNOBS])
    seconds = draw.uniform(0.0, SECONDS[stage])
    print(f"RLHF_CRASH_SEED={SEED}: {kind} killed in {stage} after {seconds:.2f} s")
    crash(up, KINDS[kind], stage, 1 + [*KINDS].index(kind), seconds, expected)


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("moment", range(NUM_MOMENTS))
@pytest.mark.parametrize("stage", KNOBS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_of_each_kind_in_every_stage(up: Up, expected: str, kind: str, stage: str, moment: int):
    number = 100 + ([*KINDS].index(kind) * len(KNOBS) + [*KNOBS].index(stage)) * NUM_MOMENTS + moment
    crash(up, KINDS[kind], stage, number, seconds_into(stage, moment, number), expected)

"""Crashes for real: a process, a server or the whole machine is killed in a stage, and the run ends with the same bits.

`make test-services` kills once a kind, in a stage and at a moment that a seed decides; the seed is printed, and
RLHF_CRASH_SEED repeats it. `make soak` kills each kind in every stage at three moments.
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from started_services import Up, make_project, wait_for
from test_services import SMOKE, policy

SEED = int(os.environ.get("RLHF_CRASH_SEED", random.randrange(10_000)))
SFT = SMOKE["sft"] | {"num_epochs": 1}
# A setting of each stage that changes its fingerprint, and no weight.
KNOBS: dict[str, Callable[[int], dict[str, Any]]] = {
    "data": lambda n: {"data": SMOKE["data"] | {"test_fraction": SMOKE["data"]["test_fraction"] + n / 1e9}},
    "sft": lambda n: {"sft": SFT | {"checkpoint_every_seconds": 0.2 + n / 1e4}},
    "reward_model": lambda n: {"reward_model": SMOKE["reward_model"] | {"checkpoint_every_seconds": 0.2 + n / 1e4}},
    "reward_audit": lambda n: {"reward_audit": {"minimum_accuracy": 0.1 + n / 1e4}},
    "ppo": lambda n: {"ppo": ppo(kl_budget=21 + n)},
    "evaluation": lambda n: {"evaluation": SMOKE["evaluation"] | {"num_side_by_side": 5 + n}},
    "model_card": lambda n: {"name": f"smoke-{n}"},
}
# How long a stage is met, counted from its beginning, in seconds: the moments of a crash lie in there.
SECONDS = dict.fromkeys(KNOBS, 3.0) | {"data": 0.9, "model_card": 0.3}
NUM_MOMENTS = 3


def ppo(**settings: Any) -> dict[str, Any]:
    return SMOKE["ppo"] | {"num_updates": 24, "checkpoint_every": 1} | settings


def config(**sections: Any) -> dict[str, Any]:
    compute = {"dtype": "fp32", "num_threads": 1}
    return {"config": SMOKE | {"compute": compute, "ppo": ppo(), "sft": SFT} | sections}


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
    kill_with_children(named(up, "server", "prefect"))


def kill_mlflow(up: Up, run_id: str) -> None:
    kill_with_children(named(up, "server", "mlflow"))


KINDS = {
    "flow": kill_flow,
    "machine": kill_machine,
    "worker": kill_worker,
    "flow and worker": kill_flow_and_worker,
    "prefect server": kill_prefect,
    "mlflow server": kill_mlflow,
}


def named(up: Up, word: str, program: str = "") -> psutil.Process:
    """One of supervisord's own children."""
    (supervisord,) = up.supervised()
    return next(
        one
        for one in psutil.Process(supervisord).children()
        if word in one.cmdline() and any(part.endswith(program) for part in one.cmdline()[:2])
    )


def kill_with_children(process: psutil.Process) -> None:
    for one in (process, *process.children(recursive=True)):
        one.kill()


def go_on(up: Up, run_id: str) -> None:
    """Retry, as soon as Prefect lets a person."""
    wait_for(lambda: up.state(run_id) in ("Crashed", "Completed"), 240)
    if up.state(run_id) == "Crashed":
        up.retry(run_id)


def in_stage(up: Up, run_id: str, stage: str) -> None:
    """Wait until the stage's run is there in MLflow."""

    def look() -> bool:
        assert up.state(run_id) not in ("Completed", "Failed", "Crashed"), up.log(run_id)
        runs = up.mlflow_runs(run_id) if up.has_mlflow_run(run_id) else []
        return any(run.data.tags.get("rlhf.stage") == stage for run in runs)

    wait_for(look, 240, every=0.1)


def seconds_into(stage: str, moment: int, number: int) -> float:
    """When in a stage the crash of this number comes: somewhere in the moment's part of it."""
    return (moment + random.Random(f"{SEED} {number}").random()) / NUM_MOMENTS * SECONDS[stage]


def crash(up: Up, kill: Callable[[Up, str], None], stage: str, number: int, seconds: float, expected: str) -> None:
    """Submit a run, crash it in a stage, and see that it ends as if nothing had been."""
    run_id = up.submit("smoke", config(**KNOBS[stage](number)))
    in_stage(up, run_id, stage)
    time.sleep(seconds)
    kill(up, run_id)
    wait_for(lambda: up.reachable() and up.state(run_id) in ("Completed", "Failed"), 300)
    assert up.state(run_id) == "Completed", up.log(run_id)
    assert policy(up, run_id) == expected
    runs = up.mlflow_runs(run_id)
    assert "RUNNING" not in {run.info.status for run in runs}
    finished = [run.data.tags["rlhf.stage"] for run in runs[1:] if run.info.status == "FINISHED"]
    assert len(finished) == len(set(finished)), "a stage was trained twice"


def undisturbed(up: Up) -> str:
    """The policy of a run that was left alone."""
    run_id = up.submit("smoke", config())
    assert up.wait_until_ended(run_id) == "Completed", up.log(run_id)
    return policy(up, run_id)


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


@pytest.mark.services
@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_of_each_kind(up: Up, expected: str, kind: str):
    draw = random.Random(f"{SEED} {kind}")
    stage = draw.choice([*KNOBS])
    seconds = draw.uniform(0.0, SECONDS[stage])
    print(f"RLHF_CRASH_SEED={SEED}: {kind} killed in {stage} after {seconds:.2f} s")
    crash(up, KINDS[kind], stage, 1 + [*KINDS].index(kind), seconds, expected)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("moment", range(NUM_MOMENTS))
@pytest.mark.parametrize("stage", KNOBS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_of_each_kind_in_every_stage(up: Up, expected: str, kind: str, stage: str, moment: int):
    number = 100 + ([*KINDS].index(kind) * len(KNOBS) + [*KNOBS].index(stage)) * NUM_MOMENTS + moment
    crash(up, KINDS[kind], stage, number, seconds_into(stage, moment, number), expected)

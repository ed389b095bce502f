"""A run that is crashed in a stage of its own choice, and that ends with the same bits as one that was left alone."""

import contextlib
import os
import random
import time
from collections.abc import Callable
from typing import Any

import psutil
from smoke_runs import SMOKE, policy
from started_services import Up, wait_for

_CHOSEN = os.environ.get("RLHF_CRASH_SEED")
# Every change meets the same crashes, each in another stage; the soak looks for crashes that nobody has
# met yet.
SEED = int(_CHOSEN or 231)
SOAK_SEED = int(_CHOSEN or random.randrange(10_000))
SFT = SMOKE["sft"] | {"num_epochs": 1}
# A setting of each stage that changes its fingerprint, and no weight.
KNOBS: dict[str, Callable[[int], dict[str, Any]]] = {
    "data": lambda n: {"data": SMOKE["data"] | {"test_fraction": SMOKE["data"]["test_fraction"] + n / 1e9}},
    "sft": lambda n: {"sft": SFT | {"checkpoint_every_seconds": 0.2 + n / 1e4}},
    "reward_model": lambda n: {"reward_model": SMOKE["reward_model"] | {"checkpoint_every_seconds": 0.2 + n / 1e4}},
    "reward_audit": lambda n: {"reward_audit": {"minimum_accuracy": 0.1 + n / 1e4}},
    "policy": lambda n: {"rl": ppo(kl_budget=21 + n)},
    "evaluation": lambda n: {"evaluation": SMOKE["evaluation"] | {"num_side_by_side": 5 + n}},
    "model_card": lambda n: {"name": f"smoke-{n}"},
}
# How long a stage is met, counted from its beginning, in seconds: the moments of a crash lie in there.
SECONDS = dict.fromkeys(KNOBS, 3.0) | {"data": 0.9, "model_card": 0.3}
NUM_MOMENTS = 3
HANG_SECONDS = float(os.environ.get("RLHF_HANG_SECONDS", "20"))


def ppo(**settings: Any) -> dict[str, Any]:
    return SMOKE["rl"] | {"num_updates": 24, "checkpoint_every": 1} | settings


def config(**sections: Any) -> dict[str, Any]:
    compute = {"dtype": "fp32", "num_threads": 1}
    return SMOKE | {"compute": compute, "rl": ppo(), "sft": SFT} | sections


def go_on(up: Up, run_id: str) -> None:
    """Retry, as soon as Prefect lets a person."""
    wait_for(lambda: up.state(run_id) in ("Crashed", "Completed"), 240)
    if up.state(run_id) == "Crashed":
        up.retry(run_id)


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


KINDS: dict[str, Callable[[Up, str], None]] = {
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


def in_stage(up: Up, run_id: str, stage: str) -> None:
    """Wait until the stage's run is there in MLflow."""

    def look() -> bool:
        assert up.state(run_id) not in ("Completed", "Failed", "Crashed"), up.log(run_id)
        runs = up.mlflow_runs(run_id) if up.has_mlflow_run(run_id) else []
        return any(run.data.tags.get("rlhf.stage") == stage for run in runs)

    wait_for(look, 240, every=0.1)


def seconds_into(stage: str, moment: int, number: int) -> float:
    """When in a stage of the soak the crash of this number comes: somewhere in the moment's part of it."""
    print(f"RLHF_CRASH_SEED={SOAK_SEED}")
    return (moment + random.Random(f"{SOAK_SEED} {number}").random()) / NUM_MOMENTS * SECONDS[stage]


def crash(up: Up, kill: Callable[[Up, str], None], stage: str, number: int, seconds: float, expected: str) -> None:
    """Submit a run, crash it in a stage, and see that it ends as if nothing had been."""
    run_id = up.submit("smoke", {"advanced": config(**KNOBS[stage](number))})
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
    run_id = up.submit("smoke", {"advanced": config()})
    assert up.wait_until_ended(run_id) == "Completed", up.log(run_id)
    return policy(up, run_id)

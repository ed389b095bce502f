"""A run that is really killed, at moments that nobody chose, ends with the bits of one that was left alone.

CI meets every third of PPO's moments and one of each other method, and `make soak` all.
"""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import killed_run
import pytest
from interrupted import contents
from tiny_world import SETUP, save_world

PROGRAM = Path(__file__).with_name("killed_run.py")
CLOCKS = ("policy/episodes_per_second", "policy/checkpoint_seconds")


# Moments that a kill by the clock seldom meets.
MOMENTS = {
    "in generation": "rlhf.modeling.generation:sample_tokens:75",
    "in the forward passes of a rollout": "rlhf.rl.rollout:score_responses:7",
    "between the two models' optimizer steps": "rlhf.rl.optimization:_optimizer_step:24",
    "in the backward passes of a minibatch": "rlhf.rl.optimization:policy_loss:9",
    "between a checkpoint's files": "rlhf.rl.checkpoint:save_file:15",
    "as a checkpoint's files are synced": "os:fsync:29",
    "before a checkpoint has its name": "rlhf.files.atomic:put_in_place:4",
    "before superfluous policies are removed": "rlhf.rl.trainer:remove_other_candidates:3",
    "between a checkpoint and the next update": "rlhf.rl.trainer:trim_heap:3",
    "as generations are written": "rlhf.policy.validation:generations_path:3",
    "as the chosen policy is saved": "rlhf.policy.best_checkpoint:save_model:2",
    "as the output is written": "rlhf.policy.best_checkpoint:run_flags:1",
}


OF_METHODS = {
    "rloo": "rlhf.rl.optimization:_optimizer_step:5",
    "grpo": "rlhf.rl.checkpoint:save_file:7",
    "dr_grpo": "rlhf.modeling.generation:sample_tokens:30",
    "online_dpo": "rlhf.rl.trainer:trim_heap:2",
}


def inputs(run, folder: Path) -> list[str]:
    for part in ("output", "report", "checkpoints"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    return [run.setup.model_dump_json(), *map(str, (run.data, run.start, run.reward_models, folder))]


def command(run, folder: Path) -> list[str]:
    return [sys.executable, str(PROGRAM), *inputs(run, folder)]


def start(run, folder: Path, moment: str | None = None, method: str = "ppo") -> BaseProcess:
    """A run in a process of its own, which does not wait for imports: it is a fork of one that has them."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["killed_run"])
    process = forks.Process(target=killed_run.main, args=(*inputs(run, folder), moment, method))
    process.start()
    return process


def end_of(process: BaseProcess) -> int | None:
    """How it ended: 0, or the negative of a signal's number."""
    process.join()
    return process.exitcode


def curve(folder: Path) -> dict[str, dict[str, float]]:
    """What was logged last of every step, clocks apart."""
    steps: dict[str, dict[str, float]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        if line.endswith("]"):
            step, metrics = json.loads(line)
            steps.setdefault(str(step), {}).update({n: v for n, v in metrics.items() if n not in CLOCKS})
    return steps


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a run is made of."""
    world = tmp_path_factory.mktemp("world")
    save_world(world)
    folders = {"data": world / "data", "start": world / "sft", "reward_models": world / "reward_models"}
    return SimpleNamespace(setup=SETUP, **folders)


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """A run that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    assert end_of(start(run, folder)) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [pytest.param(one, marks=[pytest.mark.soak] if number % 3 else []) for number, one in enumerate(MOMENTS)],
)
def test_a_run_that_was_killed_at_a_bad_moment_ends_with_the_same_bits(run, whole, tmp_path, moment):
    assert end_of(start(run, tmp_path, MOMENTS[moment])) == -signal.SIGKILL
    assert end_of(start(run, tmp_path)) == 0
    assert contents(tmp_path / "output") == contents(whole / "output")
    assert curve(tmp_path) == curve(whole)
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "moment"),
    [
        *OF_METHODS.items(),
        *(
            pytest.param(method, moment, marks=pytest.mark.soak)
            for method in OF_METHODS
            for moment in OF_METHODS.values()
            if moment != OF_METHODS[method]
        ),
    ],
)
def test_a_method_without_a_critic_that_was_killed_ends_with_the_same_bits(run, tmp_path, method, moment):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert end_of(start(run, whole, method=method)) == 0
    assert end_of(start(run, killed, moment, method)) == -signal.SIGKILL
    assert end_of(start(run, killed, method=method)) == 0
    assert contents(killed / "output") == contents(whole / "output")
    assert curve(killed) == curve(whole)


FULL_DISK = """
mount -t tmpfs -o size=$1 tmpfs "$2" || exit 99
checkpoints=$2
shift 2
"$@"
echo "ended with $?; there were" $(ls "$checkpoints") >&2
mount -o remount,size=64m "$checkpoints" || exit 99
exec "$@"
"""


@pytest.mark.slow
@pytest.mark.parametrize("room", [1.5, pytest.param(2.2, marks=pytest.mark.soak)])
def test_a_full_disk_leaves_the_checkpoint_before_good(run, whole, tmp_path, room):
    """A disk with room for the first checkpoint, and not for all that follows; then it is made larger."""
    if subprocess.run(["unshare", "-Urm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a disk of his own")
    checkpoints = tmp_path / "checkpoints"
    words = command(run, tmp_path)
    size = int(room * num_bytes(max((whole / "checkpoints").glob("update_??????"))))
    size += num_bytes(whole / "checkpoints" / "candidates")
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", FULL_DISK, "sh", str(size), str(checkpoints), *words],
        env=os.environ | {"TQDM_DISABLE": "1", "ROOM_TAKEN_LATER": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "could not be written" in done.stderr
    assert "No space left on device" in done.stderr
    assert "is as it was, and a run goes on from there. Make room on the disk" in done.stderr
    (listing,) = (line for line in done.stderr.splitlines() if line.startswith("ended with 1"))
    assert "update_00000" in listing
    assert ".partial" not in listing
    assert contents(tmp_path / "output") == contents(whole / "output")
    assert curve(tmp_path) == curve(whole)


@pytest.mark.slow
def test_a_disk_that_is_too_small_is_refused_before_the_first_update(run, tmp_path):
    if subprocess.run(["unshare", "-Urm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a disk of his own")
    script = ["sh", "-c", FULL_DISK, "sh", "64k", str(tmp_path / "checkpoints"), *command(run, tmp_path)]
    done = subprocess.run(["unshare", "-Urm", *script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the policy's checkpoints take up to " in done.stderr
    assert "make room on that disk" in done.stderr
    (listing,) = (line for line in done.stderr.splitlines() if line.startswith("ended with 1"))
    assert listing.endswith("there were")


def num_bytes(folder: Path) -> int:
    """As a disk counts them, in whole pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_run_that_was_killed_again_and_again_ends_with_the_same_bits(run, whole, tmp_path):
    killed = tmp_path
    seed = int(os.environ.get("RLHF_KILL_SEED", 338))
    print(f"RLHF_KILL_SEED={seed}")
    moments, num_killed = random.Random(seed), 0
    for _ in range(3):
        process = start(run, killed)
        while not (killed / "metrics.jsonl").exists() and process.is_alive():
            time.sleep(0.01)
        process.join(moments.uniform(0.5, 5.0))
        process.kill()
        num_killed += end_of(process) == -signal.SIGKILL
    assert num_killed > 0
    assert end_of(start(run, killed)) == 0
    assert contents(killed / "output") == contents(whole / "output")
    assert curve(killed) == curve(whole)

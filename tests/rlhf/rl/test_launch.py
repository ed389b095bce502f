"""The stage starts its processes, is told what they do, and leaves none behind. All of them are real."""

import json
import logging
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from interrupted import contents
from started_services import command_line
from tiny_world import SETUP, save_world

from rlhf.config.model import ComputeConfig, Setup
from rlhf.config.rl import ROLLOUT_METHODS, RLConfig
from rlhf.errors import TrainingDivergedError
from rlhf.policy.distributed import ProcessesError
from rlhf.progress import watching
from rlhf.rewards.scoring import ScoringError
from rlhf.rl.checkpoint import CheckpointError
from rlhf.rl.request import RLRequest
from rlhf.rl.stage import train_from_rollouts
from rlhf.workspace import Workspace

BASE = {"num_updates": 4, "rollout_size": 16, "num_minibatches": 2, "max_response_tokens": 8, "learning_rate": 1e-3}
BASE |= {"evaluate_every": 2, "checkpoint_every": 1, "num_critic_warmup_updates": 1, "kl_budget": 1e6}
OF_GROUPS = {name: value for name, value in BASE.items() if name != "num_critic_warmup_updates"}
OF_GROUPS |= {"num_responses_per_prompt": 4}
CLOCKS = ("policy/episodes_per_second", "policy/checkpoint_seconds")
WORKER = ["-m", "rlhf.rl.worker"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *WORKER]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
LAUNCHERS = {
    "torchrun": TORCHRUN,
    "accelerate": [*ACCELERATE, "--multi_gpu", "--main_process_port", "0", *WORKER],
    "accelerate on the CPU": [*ACCELERATE, "--cpu", *WORKER],
    "by itself": [sys.executable, *WORKER],
}


@dataclass
class Run:
    """Calls the stage, or writes a request for it, and keeps what was logged."""

    world: Path
    folder: Path
    num_processes: int = 2
    seed: int = 0
    method: str = "ppo"
    dtype: str = "fp32"
    logged: dict[str, dict[str, float]] = field(default_factory=dict)
    interrupt_at: int | None = None

    @property
    def setup(self) -> Setup:
        compute = ComputeConfig(dtype=self.dtype, num_threads=1, num_processes=self.num_processes)
        return SETUP.model_copy(update={"compute": compute, "seed": self.seed})

    def __call__(self, **settings: Any) -> Path:
        for part in ("output", "report", "checkpoints"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        folders = [self.folder / part for part in ("output", "report", "checkpoints")]
        inputs = [self.world / part for part in ("data", "sft", "reward_models")]
        train_from_rollouts(
            self.method, self._config(settings), self.setup, *inputs, Workspace(*folders, self._log_metrics)
        )
        return self.folder / "output"

    def request(self, **settings: Any) -> str:
        inputs = {part: self.world / part for part in ("data", "reward_models")} | {"start": self.world / "sft"}
        folders = {part: self.folder / part for part in ("output", "report", "checkpoints")}
        request = RLRequest(method=self.method, rl=self._config(settings), setup=self.setup, **inputs, **folders)
        self.folder.mkdir(exist_ok=True)
        path = self.folder / "request.json"
        path.write_text(request.model_dump_json())
        return str(path)

    def _config(self, settings: dict[str, Any]) -> RLConfig:
        base = BASE if self.method == "ppo" else OF_GROUPS
        return RLConfig(**(base | settings))

    def logged_to_file(self) -> dict[str, dict[str, float]]:
        """Of a request: what was logged last of every step, clocks apart."""
        steps: dict[str, dict[str, float]] = {}
        for line in (self.folder / "report" / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            steps.setdefault(str(row["step"]), {}).update(without_clocks(row["metrics"]))
        return steps

    def _log_metrics(self, metrics: Any, step: int | None) -> None:
        self.logged.setdefault(str(step), {}).update(without_clocks(metrics))
        if step is not None and step == self.interrupt_at:
            raise KeyboardInterrupt


def without_clocks(metrics):
    return {name: value for name, value in metrics.items() if name not in CLOCKS}


def descendants() -> list[psutil.Process]:
    """Those of this process that run the worker."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if "rlhf.rl.worker" in command_line(process)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    save_world(folder)
    return folder


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """A run of two processes that was left alone, its progress and log lines."""
    run, progress, lines = Run(world, tmp_path_factory.mktemp("whole")), [], []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append((record.name, record.levelno, record.getMessage()))
    library = logging.getLogger("rlhf")
    library.addHandler(handler)
    before = library.level
    library.setLevel(logging.INFO)
    try:
        with watching(lambda *report: progress.append(report)):
            run()
    finally:
        library.removeHandler(handler)
        library.setLevel(before)
    return run, progress, lines


def test_the_first_process_is_heard_and_no_other(whole):
    run, progress, lines = whole
    assert set(run.logged) == {"0", "1", "2", "3", "4", "None"}
    assert progress == [("policy", update, 4) for update in (1, 2, 3, 4)]
    updates = [message for _, _, message in lines if message.startswith("update")]
    assert [message.split(":")[0] for message in updates] == ["update 0/4", "update 2/4", "update 4/4"]
    assert {(name, level) for name, level, _ in lines} == {
        ("rlhf.rl.trainer", logging.INFO),
        ("rlhf.policy.choice", logging.INFO),
    }
    assert json.loads((run.folder / "output" / "summary.json").read_text())["num_updates"] == 4
    assert descendants() == []


def test_one_process_finds_about_the_same(whole, world, tmp_path):
    """Four updates are too few for rounding to grow."""
    alone = Run(world, tmp_path / "alone", num_processes=1)
    alone()
    run, _, _ = whole
    for step, metrics in alone.logged.items():
        assert run.logged[step] == pytest.approx(metrics, rel=2e-3, abs=1e-4)


@pytest.mark.soak
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_whole_runs_agree_within_the_spread_of_the_seeds(world, tmp_path, dtype):
    """Seen: in fp32 no curve differs by more than 1e-6. In bf16 a product's rounding depends on its number of rows."""
    settings = {"num_updates": 20, "rollout_size": 32, "learning_rate": 3e-3, "value_learning_rate": 3e-3}
    settings |= {"kl_coef": 0.05, "evaluate_every": 20, "checkpoint_every": 20}
    curves = {1: [], 2: []}
    for num_processes, runs in curves.items():
        for seed in range(5):
            run = Run(world, tmp_path / f"{num_processes} {seed}", num_processes, seed, dtype)
            run(**settings)
            runs.append(run.logged["20"])
    assert statistics.mean(run["policy/eos_rate"] for run in curves[1]) > 0.8, "they learn what the penalty wants"
    for name in ("policy/score_mean", "policy/kl_mean", "policy/entropy", "policy/validation_objective"):
        one, two = ([run[name] for run in curves[n]] for n in (1, 2))
        spread = statistics.stdev(one)
        assert abs(statistics.mean(one) - statistics.mean(two)) < spread
        if dtype == "fp32":
            assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 0.1 * spread


def test_an_interrupted_run_goes_on_to_the_same_bits(whole, world, tmp_path):
    run, _, _ = whole
    broken = Run(world, tmp_path / "broken", interrupt_at=3)
    with pytest.raises(KeyboardInterrupt):
        broken()
    assert descendants() == []
    saved = sorted(path.name for path in (broken.folder / "checkpoints").glob("update_??????"))
    assert saved[-1] == "update_000002", "no checkpoint is ahead of the metrics"
    broken.interrupt_at = None
    assert contents(broken()) == contents(run.folder / "output")
    assert broken.logged == run.logged


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        "torchrun",
        "accelerate",
        *(pytest.param(one, marks=pytest.mark.soak) for one in ("accelerate on the CPU", "by itself")),
    ],
)
def test_any_launcher_gives_the_same_bits(whole, world, tmp_path, launcher):
    run, _, _ = whole
    by_hand = Run(world, tmp_path / "by hand")
    subprocess.run([*LAUNCHERS[launcher], by_hand.request()], check=True, timeout=300)
    assert contents(by_hand.folder / "output") == contents(run.folder / "output")
    assert by_hand.logged_to_file() == run.logged
    num_lines = len((by_hand.folder / "report" / "metrics.jsonl").read_text().splitlines())
    assert num_lines == 13, "4 updates, 3 evaluations, 4 checkpoints, 2 final values: logged once"


@pytest.mark.slow
@pytest.mark.parametrize(
    "killed_by",
    [signal.SIGKILL, *(pytest.param(one, marks=pytest.mark.soak) for one in (signal.SIGTERM, signal.SIGINT))],
)
def test_a_parent_that_is_killed_takes_its_processes_along(whole, world, tmp_path, killed_by):
    run, _, _ = whole
    broken = Run(world, tmp_path / "broken")
    command = [sys.executable, *WORKER, broken.request()]
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not (broken.folder / "checkpoints" / "update_000002").exists():
        assert parent.poll() is None
        time.sleep(0.01)
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) == 2
    parent.send_signal(killed_by)
    assert parent.wait(timeout=60) != 0
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
    subprocess.run(command, check=True)
    assert contents(broken.folder / "output") == contents(run.folder / "output")
    assert broken.logged_to_file() == run.logged


@pytest.mark.soak
@pytest.mark.parametrize("method", ROLLOUT_METHODS)
def test_two_processes_that_are_killed_again_and_again_end_with_the_same_bits(world, tmp_path, method):
    """At random moments: the parent, or one of its processes, which takes the others along."""
    whole, broken = (Run(world, tmp_path / name, method=method) for name in ("whole", "broken"))
    subprocess.run([sys.executable, *WORKER, whole.request()], check=True)
    command = [sys.executable, *WORKER, broken.request()]
    seed = int(os.environ.get("RLHF_KILL_SEED", 338))
    print(f"RLHF_KILL_SEED={seed}")
    moments, num_killed = random.Random(seed), 0
    for _ in range(4):
        parent = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while not descendants() and parent.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(4.0, 14.0))
        moments.choice([psutil.Process(parent.pid), *descendants()]).kill()
        num_killed += parent.wait(timeout=60) != 0
        psutil.wait_procs(descendants(), timeout=60)
    assert num_killed > 0
    subprocess.run(command, check=True)
    assert contents(broken.folder / "output") == contents(whole.folder / "output")
    assert broken.logged_to_file() == whole.logged_to_file()


FUNCTION = """
import os, signal, sys

def score(prompts, responses):
    if os.environ["RANK"] == "1":
        print("a last word", flush=True)
        {action}
    return [0.0] * len(responses)
"""
LOST = {
    "raise ValueError('not today')": (ScoringError, r"'spoiler' raised ValueError: not today; .* 4 responses"),
    "os.kill(os.getpid(), signal.SIGKILL)": (ProcessesError, r"process 1 of 2 .* was killed by SIGKILL, perhaps"),
    "os._exit(7)": (ProcessesError, r"process 1 of 2 .* ended with exit code 7; the last it said was 'a last word'"),
    "sys.exit('enough')": (ProcessesError, r"process 1 of 2 .* failed with SystemExit: enough"),
}


@pytest.mark.parametrize("action", LOST)
def test_an_error_in_one_process_ends_all_and_is_raised(world, tmp_path, install, action):
    install(FUNCTION.format(action=action), "spoiler = my_rewards:score")
    kind, message = LOST[action]
    run = Run(world, tmp_path / "run")
    with pytest.raises(kind, match=message) as raised:
        run(rewards=[{"kind": "function", "name": "spoiler"}], micro_batch_size=4)
    assert type(raised.value) is kind
    if "exit code" not in message and "SIGKILL" not in message:
        (note,) = raised.value.__notes__
        assert "In process 1 of 2" in note
        assert "Traceback" in note
    assert descendants() == []


def test_an_error_of_all_is_that_of_one_process(world, tmp_path):
    def diverge(num_processes):
        run = Run(world, tmp_path / str(num_processes), num_processes)
        with pytest.raises(TrainingDivergedError) as raised:
            run(learning_rate=1e30, learning_rate_schedule="constant")
        error = raised.value
        return error.step, str(error).replace(str(run.folder), ""), Path(error.checkpoint).is_dir()

    assert diverge(2) == diverge(1)


def test_a_checkpoint_of_another_number_of_processes_is_refused(world, tmp_path):
    run = Run(world, tmp_path / "run", num_processes=1, interrupt_at=2)
    with pytest.raises(KeyboardInterrupt):
        run()
    run.num_processes, run.interrupt_at = 2, None
    with pytest.raises(CheckpointError, match=r"compute.num_processes was 1 and is 2"):
        run()
    run.num_processes = 1
    run()


def test_a_mistake_is_told_before_anything_is_started(world, tmp_path):
    run = Run(world, tmp_path / "run", num_processes=3)
    answer = subprocess.run([sys.executable, *WORKER, run.request()], capture_output=True, text=True, env=os.environ)
    assert answer.returncode == 2
    assert answer.stderr.startswith("rlhf: error: a minibatch of 8 episodes")

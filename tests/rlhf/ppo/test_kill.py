"""A PPO run that is really killed, at moments that nobody chose, ends with the bits of one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
from pathlib import Path
from rlhf.config import PPOConfig, Setup
from rlhf.ppo.trainer import train_ppo
from rlhf.workspace import Workspace

setup, data, start, reward_models, folder = sys.argv[1:]
folder = Path(folder)
log = (folder / "metrics.jsonl").open("a")

def log_metrics(metrics, step):
    log.write(json.dumps([step, dict(metrics)]) + "\\n")
    log.flush()

config = PPOConfig(
    num_updates=10, rollout_size=32, num_minibatches=2, max_response_tokens=8, evaluate_every=2, checkpoint_every=1,
    num_critic_warmup_updates=1, kl_budget=1e6, learning_rate=1e-3,
)
workspace = Workspace(folder / "output", folder / "report", folder / "checkpoints", log_metrics)
train_ppo(config, Setup.model_validate_json(setup), Path(data), Path(start), Path(reward_models), workspace)
"""
CLOCKS = ("ppo/episodes_per_second", "ppo/checkpoint_seconds")


def start(run, folder: Path) -> subprocess.Popen[bytes]:
    for part in ("output", "report", "checkpoints"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    inputs = [run.setup.model_dump_json(), *map(str, (run.data, run.start, run.reward_models, folder))]
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *inputs], env=os.environ | {"TQDM_DISABLE": "1"})


def curve(folder: Path) -> dict[str, dict[str, float]]:
    """What was logged last of every step, clocks apart."""
    steps: dict[str, dict[str, float]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        if line.endswith("]"):
            step, metrics = json.loads(line)
            steps.setdefault(str(step), {}).update({n: v for n, v in metrics.items() if n not in CLOCKS})
    return steps


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_run_that_was_killed_again_and_again_ends_with_the_same_bits(tiny_run, tmp_path):
    run, whole, killed = tiny_run(), tmp_path / "whole", tmp_path / "killed"
    assert start(run, whole).wait() == 0
    seed = int(os.environ.get("RLHF_KILL_SEED", random.SystemRandom().randrange(10_000)))
    print(f"RLHF_KILL_SEED={seed}")
    moments, num_killed = random.Random(seed), 0
    for _ in range(3):
        process = start(run, killed)
        while not (killed / "metrics.jsonl").exists() and process.poll() is None:
            time.sleep(0.01)
        try:
            process.wait(timeout=moments.uniform(0.5, 5.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            num_killed += process.wait() == -signal.SIGKILL
    assert num_killed > 0
    assert start(run, killed).wait() == 0
    assert contents(killed / "output") == contents(whole / "output")
    assert curve(killed) == curve(whole)

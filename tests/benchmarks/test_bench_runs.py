"""Runs on a model of a few thousand weights. TRL's PPO needs an environment of its own and is not run here."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.arguments import Settings, snapshot_due
from benchmarks.cases import CASES, shrunk
from benchmarks.made_models import PROMPT_TOKENS, ROOT, ModelSet, model_set
from benchmarks.measure import PhaseClock, peak_rss_mb, summarize_lengths
from benchmarks.peer_environment import OVERRIDE, PeerEnvironmentError, peer_python, pins
from benchmarks.runner import RunFailedError, run_side

SETTINGS = Settings(episodes=8, rollout=4, micro_batch=2, ppo_epochs=2, response_tokens=6, threads=1, snapshot_every=1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> ModelSet:
    folder = tmp_path_factory.mktemp("models")
    command = [sys.executable, "-m", "benchmarks.made_models", "tiny", "--folder", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return model_set("tiny", folder)


def test_prompts_have_the_lengths_that_were_agreed(tiny):
    rows = [json.loads(line)["input_ids"] for line in tiny.prompts.read_text().splitlines()]
    shortest, longest = PROMPT_TOKENS
    assert len(rows) == 512
    assert {min(map(len, rows)), max(map(len, rows))} == {shortest, longest}


@pytest.mark.parametrize("sharing", ["none", "trunk", "adapters"])
def test_a_run_of_ours(tiny, tmp_path, sharing):
    flags = [*tiny.flags(), *SETTINGS.flags(), "--sharing", sharing, "--snapshots", str(tmp_path / "snapshots")]
    result = run_side(sys.executable, "benchmarks.our_run", flags, threads=1, name=sharing).result
    assert result["optimizer_steps"] == 4
    assert result["response_tokens"] == [{"mean": 6.0, "longest": 6}] * 2
    assert sum(result["seconds"].values()) == pytest.approx(result["wall_s"], abs=0.02)
    assert result["seconds"]["other"] < 0.5 * result["wall_s"]
    assert result["update_seconds"][-1] == pytest.approx(result["wall_s"], abs=0.02)
    assert 100 < result["peak_rss_mb"] < 3000
    saved = sorted(path.name for path in (tmp_path / "snapshots").iterdir())
    assert saved == ["update_0001", "update_0002"]
    assert Path(tmp_path / "snapshots" / "update_0002" / "model.safetensors").exists()


@pytest.mark.parametrize("case", [CASES["20M-rloo"], CASES["20M-grpo-adapters"]], ids=lambda case: case.name)
def test_ours_and_the_peer_of_the_lock_take_the_same_step(tiny, case):
    case = replace(shrunk(case), dtype="fp32")
    flags = [*tiny.flags(), *replace(case.settings, threads=1, learning_rate=1e-9).flags()]
    ours = run_side(
        sys.executable, "benchmarks.our_run", [*flags, *case.our_flags(None)], threads=1, name="ours"
    ).result
    peer = run_side(sys.executable, case.peer_module, [*flags, *case.peer_flags()], threads=1, name="peer").result
    for result in (ours, peer):
        assert result["optimizer_steps"] == 2
        assert result["response_tokens"] == [{"mean": 8.0, "longest": 8}] * 2
        assert sum(result["seconds"].values()) == pytest.approx(result["wall_s"], abs=0.02)
    # Other responses are sampled; the loss is 0 where the ratio is 1, and the gradient is not.
    assert abs(ours["log"][0]["policy/policy_loss"]) < 1e-6
    assert abs(peer["log"][0]["loss"]) < 1e-6
    assert 0.3 < ours["log"][0]["policy/policy_grad_norm"] / peer["log"][0]["grad_norm"] < 3


def test_a_run_that_fails_says_why(tiny):
    with pytest.raises(RunFailedError, match="no such model folder"):
        run_side(
            sys.executable,
            "benchmarks.our_run",
            [*tiny.flags(), *SETTINGS.flags(), "--policy", "/nowhere"],
            threads=1,
            name="broken",
        )


def test_a_phase_within_a_phase_is_counted_once():
    start = time.perf_counter()
    clock = PhaseClock()
    with clock.phase("outer"):
        time.sleep(0.02)
        with clock.phase("inner"):
            time.sleep(0.03)
        with clock.pause():
            time.sleep(0.05)
    counted = clock.elapsed()
    without_pause = time.perf_counter() - start - 0.05
    # A busy machine lets each of them take longer, and all of them together no longer than the whole.
    assert clock.seconds["inner"] >= 0.03
    assert clock.seconds["outer"] >= 0.02
    assert clock.seconds["inner"] + clock.seconds["outer"] <= counted <= without_pause


def test_watched_functions_go_on_doing_what_they_did():
    class Owner:
        @staticmethod
        def double(value):
            return 2 * value

    clock = PhaseClock()
    clock.watch(Owner, "double", lambda value: "even" if value % 2 == 0 else "odd")
    assert Owner.double(2) == 4
    assert Owner.double(3) == 6
    assert set(clock.seconds) == {"even", "odd"}
    assert set(clock.report(1.0)) == {"even", "odd", "other"}


def test_lengths_are_told_by_rollout():
    assert summarize_lengths([[1, 2], [4, 4]]) == [{"mean": 1.5, "longest": 2}, {"mean": 4.0, "longest": 4}]


def test_peak_memory_is_that_of_this_process():
    assert 10 < peak_rss_mb() < 100_000


def test_the_last_policy_is_saved_whatever_the_interval():
    settings = Settings(episodes=5 * 64, snapshot_every=2)
    assert [done for done in range(1, 6) if snapshot_due(settings, done)] == [2, 4, 5]
    assert not snapshot_due(Settings(), 4)


def test_the_peers_versions_are_pinned():
    assert pins()["trl"] == "1.12.0"
    assert set(pins()) == {"torch", "trl", "transformers", "accelerate", "datasets", "peft"}


def test_another_environment_than_the_peers_is_refused(monkeypatch):
    monkeypatch.setenv(OVERRIDE, sys.executable)
    with pytest.raises(PeerEnvironmentError, match=r"trl .* instead of 1\.12\.0"):
        peer_python()

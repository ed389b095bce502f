"""Two real processes do what one does: on a rollout that is the same for both, and with what they sample themselves."""

import json
import subprocess
import sys
from pathlib import Path

import fixed_rollout
import pytest
import torch
from fixed_rollout import CASES, ROUNDED, World, load
from tiny_world import SETUP, save_world

from rlhf.config.model import ComputeConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.rl import RLConfig
from rlhf.errors import ConfigError
from rlhf.policy import distributed as processes
from rlhf.provenance.fingerprint import reached_sources, stage_fingerprint

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
PER_TOKEN = ("old_logprobs", "ref_logprobs", "entropy", "values", "kl", "rewards", "advantages", "returns")


def per_token(rollout):
    return [name for name in PER_TOKEN if getattr(rollout, name) is not None]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """All cases, computed by one process, by two, and by two that hold half of the weights each."""
    world = World(tmp_path_factory.mktemp("world"))
    save_world(world.folder)
    fixed_rollout.save_all(world)
    subprocess.run([*TORCHRUN, str(Path(fixed_rollout.__file__)), str(world.folder)], check=True)
    return world


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture(params=["2", "full"])
def pair(request, world, case):
    """Of one case: what the single process has, and what each of the two has."""
    names = ("1-0", f"{request.param}-0", f"{request.param}-1")
    return [(load(world.path(case, f"rollout-{name}")), load(world.path(case, f"step-{name}"))) for name in names]


def test_loss_and_gradients_on_a_fixed_rollout(pair):
    (_, alone), *of_two = pair
    assert all(alone["statistics"][name] != 0 for name in ("policy_loss", "value_loss") if name in alone["statistics"])
    for _, shared in of_two:
        # An error of the ratio may be one rounding: on some CPUs two rows make another one than four.
        for name, expected in alone["statistics"].items():
            least = 2e-6 if name == "ratio_error" else 1e-12
            assert shared["statistics"][name] == pytest.approx(expected, rel=1e-5, abs=least), name
        for name, expected in alone["gradients"].items():
            assert len(shared["gradients"][name]) == len(expected)
            for one, other in zip(expected, shared["gradients"][name], strict=True):
                assert (one - other).norm() <= 1e-5 * one.norm()


def test_what_is_sampled(pair):
    (alone, _), *of_two = pair
    lengths = alone.batch.response_mask.sum(1)
    assert int(lengths.min()) <= 5 < 24 == int(lengths.max()), "rows of very different lengths"
    for shared, _ in of_two:
        assert torch.equal(shared.batch.input_ids, alone.batch.input_ids)
        assert torch.equal(shared.batch.response_mask, alone.batch.response_mask)
        for name in per_token(alone):
            torch.testing.assert_close(getattr(shared, name), getattr(alone, name), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(shared.scores, alone.scores, rtol=1e-5, atol=1e-5)
        if shared.values is None:
            continue
        kept = shared.advantages[shared.batch.response_mask]
        assert float(kept.mean()) == pytest.approx(0.0, abs=1e-6)
        assert float(kept.std(unbiased=False)) == pytest.approx(1.0, abs=1e-2)


def test_both_processes_hold_the_same_bits(pair):
    _, (one_rollout, one), (other_rollout, other) = pair
    assert one["statistics"] == other["statistics"]
    assert all(torch.equal(a, b) for a, b in zip(one["weights"], other["weights"], strict=True))
    for name in (*per_token(one_rollout), "scores"):
        assert torch.equal(getattr(one_rollout, name), getattr(other_rollout, name))


def test_an_evaluation_of_fewer_prompts_than_processes(pair):
    (_, alone), *of_two = pair
    for _, shared in of_two:
        (evaluation, generations), (expected, expected_generations) = shared["evaluation"], alone["evaluation"]
        assert [row.response for row in generations] == [row.response for row in expected_generations]
        assert evaluation.metrics() == pytest.approx(expected.metrics(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("case", ROUNDED)
def test_gradients_of_rounded_weights_reach_the_weights(world, case):
    """A rounded weight that is kept for the next micro-batch gives its gradient after the block's were summed."""
    whole, sharded = (load(world.path(case, f"step-{sharding}-0"))["gradients"] for sharding in ("2", "full"))
    for name, expected in whole.items():
        for one, other in zip(expected, sharded[name], strict=True):
            assert (one - other).norm() <= 1e-5 * one.norm()


def test_sharded_models_are_held_in_halves(world, case):
    for rank in (0, 1):
        assert load(world.path(case, f"step-full-{rank}"))["held"] < 0.55
        assert load(world.path(case, f"step-2-{rank}"))["held"] == 1.0


def test_the_collectives(world):
    first, second = (json.loads((world.folder / f"collectives-{rank}.json").read_text()) for rank in (0, 1))
    for found in (first, second):
        assert found["gradients"] == [[3.0, 30.0], [1.0, 1.0], None]
        assert [found[f"gathered {n}"] for n in (0, 1, 2, 5)] == [[], ["0"], ["0", "1"], ["0", "1", "2", "3", "4"]]
        assert found["summed"][:2] == [[1, -1], [1, 0]]
        assert "no longer hold the same weights" in found["come apart"]
        assert "update_000000 for one process and update_000001 for another" in found["other disk"]
        assert "each host has one, so it would be ignored" in found["one per host"]
        assert "the hosts have [1, 2] processes; start as many on each" in found["uneven hosts"]
    assert [found["summed"][2] for found in (first, second)] == [[0, 0], [1, -1]], "the argument is left as it was"


def test_alone_everything_is_as_it_was_given():
    rows = torch.arange(3)
    assert processes.local_rows(rows) is rows
    assert processes.all_reduce_sum(rows) is rows
    assert processes.all_reduce_max(rows) is rows
    assert processes.all_gather(["a", "b"], 2) == ["a", "b"]
    assert processes.is_first()
    assert processes.num_processes() == 1


def test_another_number_of_processes_than_configured_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with (
        pytest.raises(ConfigError, match=r"4 processes were started, but compute.num_processes is 2"),
        processes.process_group(ComputeConfig(num_processes=2)),
    ):
        pass


def test_more_processes_than_cuda_devices_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "64")
    monkeypatch.setenv("LOCAL_RANK", "63")
    with (
        pytest.raises(ConfigError, match="process 63 of this machine has no CUDA device"),
        processes.process_group(ComputeConfig(num_processes=64, device="cuda")),
    ):
        pass


@pytest.mark.parametrize(
    ("ppo", "num_processes", "message"),
    [
        (
            {"rollout_size": 12, "num_minibatches": 4},
            2,
            r"minibatch of 3 episodes .* does not divide among 2 processes",
        ),
        ({"rollout_size": 16, "num_minibatches": 2, "micro_batch_size": 8}, 2, r"share of a minibatch is 4 episodes"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(tiny_run, ppo, num_processes, message):
    with pytest.raises(ValueError, match=message):
        PipelineConfig(rl=RLConfig(**ppo), compute=ComputeConfig(num_processes=num_processes))
    run = tiny_run()
    run.setup = run.setup.model_copy(update={"compute": ComputeConfig(num_processes=num_processes)})
    with pytest.raises(ConfigError, match=message):
        run(**ppo)


def test_the_number_of_processes_and_what_starts_them_are_in_the_fingerprint():
    one, two = (SETUP.model_copy(update={"compute": ComputeConfig(num_processes=n)}) for n in (1, 2))
    prints = {stage_fingerprint("policy", "1", {"setup": setup}, "rlhf.rl.trainer") for setup in (one, two)}
    assert len(prints) == 2
    assert {"rlhf/rl/launch.py", "rlhf/rl/request.py"} <= set(reached_sources("rlhf.rl.stage"))

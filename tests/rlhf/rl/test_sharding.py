"""Processes that hold parts of the models do what those do that hold all of them; a run goes on as either."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import sharded_runs
from families import ALL as ALL_FAMILIES
from interrupted import contents
from safetensors.torch import load_file
from sharded_runs import MODES
from tiny_world import WORDS, save_world
from torch import nn

from rlhf.config.model import ComputeConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.rl import RLConfig
from rlhf.errors import ModelError
from rlhf.policy.sharding import shard

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
IN_CI = ("none-fp32", "adapters-fp32")
FAMILIES_IN_CI = ["qwen2, tied", "opt"]
ALL = [f"{mode}-{dtype}" for dtype in ("fp32", "bf16") for mode in MODES]


def run_all(folder: Path, cases, families, num_processes=2, sharding="full") -> Path:
    save_world(folder)
    (folder / "data" / "corpus").mkdir()
    texts = [{"text": " ".join(WORDS.split()[row:])} for row in range(9)]
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    for split in ("train", "validation"):
        (folder / "data" / "corpus" / f"{split}.jsonl").write_text(lines)
    program = [str(sharded_runs.__file__), str(folder), sharding, json.dumps(families), *cases]
    subprocess.run([*TORCHRUN, str(num_processes), *program], check=True)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return run_all(tmp_path_factory.mktemp("world"), IN_CI, FAMILIES_IN_CI)


def check(world: Path, case: str) -> None:
    """All that holds of the runs of one case."""
    logged = {path.parent.name: json.loads(path.read_text()) for path in (world / case).glob("*/logged.json")}
    assert set(logged["whole"]) == {"0", "1", "2", "3", "4", "None"}
    steps = logged["whole"] if case.endswith("fp32") else ("0", "1")  # another rounding in bf16 is another token soon
    for name in ("sharded", "sharded, whole at the end", "whole, sharded at the end"):
        for step in steps:
            assert logged[name][step] == pytest.approx(logged["whole"][step], rel=1e-6, abs=1e-6), (name, step)
    assert contents(world / case / "sharded, broken" / "output") == contents(world / case / "sharded" / "output")
    assert logged["sharded, broken"] == logged["sharded"]
    config = json.loads((world / case / "sharded" / "output" / "policy" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    whole, sharded = (world / case / name / "checkpoints" / "update_000004" for name in ("whole", "sharded"))
    files = sorted(path.name for path in whole.glob("*.safetensors"))
    assert files == sorted(path.name for path in sharded.glob("*.safetensors"))
    for name in files:
        expected, found = load_file(whole / name), load_file(sharded / name)
        assert {key: tensor.shape for key, tensor in expected.items()} == {k: t.shape for k, t in found.items()}


@pytest.mark.parametrize("case", IN_CI)
def test_sharded_runs_are_those_of_whole_models(world, case):
    check(world, case)


def check_families(world, families):
    """Within rounding, of passes alone: none of what is around is compared."""
    found = json.loads((world / "families.json").read_text())
    assert list(found) == list(families)
    assert {family: difference for family, difference in found.items() if difference[0] > 1e-5} == {}


def test_families(world):
    """Heads that are tied, and a language model that calls a part of its backbone past the whole."""
    check_families(world, FAMILIES_IN_CI)


@pytest.mark.soak
@pytest.mark.parametrize(("num_processes", "sharding"), [(2, "full"), (2, "node"), (4, "full"), (4, "node")])
def test_every_mode(tmp_path, num_processes, sharding):
    world = run_all(tmp_path, ALL, list(ALL_FAMILIES), num_processes, sharding)
    for case in ALL:
        check(world, case)
    check_families(world, ALL_FAMILIES)


def test_a_model_that_does_not_name_its_blocks_is_refused():
    with pytest.raises(ModelError, match="a Sequential cannot be sharded: transformers does not say what its blocks"):
        shard(nn.Sequential(nn.Linear(2, 2)), mesh=object())


def test_sharding_that_would_be_ignored_is_refused():
    with pytest.raises(ValueError, match="sharding is full but num_processes is 1, so it would be ignored"):
        ComputeConfig(sharding="full")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "dpo"}, "DPO trains in one process; set it to 1, or take a method of the section rl"),
        ({"rl": RLConfig(side_by_side=True)}, r"rl\.side_by_side is for one process"),
    ],
)
def test_what_has_one_process_is_not_sharded(settings, message):
    with pytest.raises(ValueError, match=message):
        PipelineConfig(compute=ComputeConfig(num_processes=2, sharding="full"), **settings)

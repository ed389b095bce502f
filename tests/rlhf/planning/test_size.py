"""A recipe on GPUs that are not here: against sums by hand, against transformers' own models, and as it is typed."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_world import SETUP, save_world
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from rlhf.cli.main import main
from rlhf.config.loading import load_config
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.rl import RLConfig
from rlhf.errors import ConfigError, InputError
from rlhf.modeling.context import start_stage
from rlhf.planning.fit import rows_at_once
from rlhf.planning.hardware import GPUS, Cluster, read_cluster
from rlhf.planning.memory import memory_per_process, peak_memory
from rlhf.planning.public_shapes import PUBLIC_SHAPES, public_shape
from rlhf.planning.shape import shape_in
from rlhf.planning.size import full_length, options, size_recipe
from rlhf.planning.throughput import BEST, WORST, Seconds
from rlhf.rl.checkpoint import needed_bytes
from rlhf.rl.models import load_models

GPU = Path(__file__).parents[3] / "configs" / "gpu.yaml"
WHOLE = {f"{section}.lora": "none" for section in ("sft", "reward_model", "rl")} | {"rl.sharing": "none"}
SEVEN = public_shape("7B")[1]
WEIGHTS = SEVEN.parameters
H100 = GPUS["H100"]


def recipe(**changes: Any) -> PipelineConfig:
    settings = {"rl.rollout_size": 512, "rl.micro_batch_size": 2} | changes
    return load_config(GPU, {name: str(value) for name, value in settings.items()})


def sized(gpus: str, sharding: Any = "none", **changes: Any) -> Any:
    return size_recipe(recipe(**changes), SEVEN, read_cluster(gpus), sharding)


def test_a_whole_model_that_learns_holds_sixteen_bytes_a_weight_and_its_rounded_copy_two():
    moments = sized("1xH100", **WHOLE).moments
    learning = moments["training"]
    assert learning["policy"] == learning["value model"] == 4 * WEIGHTS
    assert learning["optimizer"] == 2 * 8 * WEIGHTS
    assert learning["gradients"] == 4 * WEIGHTS, "policy and value model take turns"
    assert learning["casts"] == 2 * SEVEN.products
    assert learning["reference"] == 2 * SEVEN.products + 4 * SEVEN.embeddings
    assert learning["reward models"] == 2 * learning["reference"], "one to climb and one to choose by"
    # 512 responses sampled together, 1,024 tokens, keys and values of 28 blocks, 512 numbers each of 2 bytes.
    assert moments["sampling"]["keys and values"] == pytest.approx(1.2 * 512 * 1024 * 28 * 2 * 512 * 2)
    assert moments["sampling"]["logits"] == pytest.approx(1.2 * 512 * 152_064 * 28)
    assert "copy that is saved" not in moments["saving"], "a plain policy is saved as it is"


def test_sharding_divides_what_is_held_and_adds_what_is_gathered():
    alone, spread = sized("8xH100", **WHOLE), sized("8xH100", "full", **WHOLE)
    before, after = alone.moments["training"], spread.moments["training"]
    for role in ("policy", "value model", "reference", "reward models", "optimizer", "gradients"):
        assert after[role] == before[role] / 8
    for kept in ("activations", "logits", "casts", "process"):
        assert after[kept] == before[kept]
    block = SEVEN.products / 28
    whole = SEVEN.embeddings + 2 * block
    assert after["gathered blocks"] == pytest.approx(4 * (whole + SEVEN.embeddings + SEVEN.embeddings + block))
    assert after.keys() - before.keys() == {"gathered blocks"}
    assert spread.moments["sampling"]["gathered policy"] == 4 * WEIGHTS, "decoding gathers all of it"
    assert spread.moments["saving"]["copy that is saved"] == 4 * WEIGHTS
    on_a_cpu = recipe(**WHOLE, **{"compute.device": "cpu"})
    held = memory_per_process(on_a_cpu, SEVEN, full_length(on_a_cpu), 8)["policy"]
    assert held["gathered blocks"] == 8 * WEIGHTS, "weights and gradients, for what is freed is not used again"


def test_node_spreads_over_a_node_and_full_over_all():
    held = {
        (gpus, sharding): sized(gpus, sharding, **WHOLE).moments["training"]["optimizer"] / (16 * WEIGHTS)
        for gpus in ("1x8xH100", "2x8xH100")
        for sharding in ("none", "node", "full")
    }
    one, two = "1x8xH100", "2x8xH100"
    assert [held[one, s] for s in ("none", "node", "full")] == [1, 1 / 8, 1 / 8]
    assert [held[two, s] for s in ("none", "node", "full")] == [1, 1 / 8, 1 / 16]


def test_adapters_share_one_backbone():
    parts = sized("1xH100").moments["training"]
    adapters = SEVEN.adapters(32)
    assert parts["backbone"] == 2 * SEVEN.products + 4 * SEVEN.embeddings
    assert parts["adapters that learn"] == 4 * 2 * adapters
    assert parts["optimizer"] == 8 * 2 * adapters
    assert parts["adapters of reward models"] == 4 * 2 * adapters


def test_the_stages_beside_the_policys_have_one_process():
    one, many = sized("1xH100"), sized("8x8xH100", "full")
    for stage in ("sft", "reward_model", "reward_audit", "evaluation"):
        assert one.stages[stage] == many.stages[stage]
    assert "data" not in one.stages
    config = recipe(**WHOLE)
    work = full_length(config)
    assert memory_per_process(config, SEVEN, work) == peak_memory(config, SEVEN, work)
    assert (work.longest, work.longest_prompt, work.response_tokens) == (1024, 768, 256)


def test_public_shapes_are_those_of_transformers_models():
    configs = {
        "1B": LlamaConfig(
            vocab_size=128_256,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
            tie_word_embeddings=True,
        ),
        "7B": Qwen2Config(
            vocab_size=152_064,
            hidden_size=3584,
            intermediate_size=18_944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            tie_word_embeddings=False,
        ),
    }
    for size, config in configs.items():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        assert public_shape(size.lower())[1].parameters == sum(p.numel() for p in model.parameters())
    counts = {size: shape.parameters for size, (_, shape) in PUBLIC_SHAPES.items()}
    assert (counts["0.5B"], counts["8B"], counts["70B"]) == (494_032_768, 8_030_261_248, 70_553_706_496)


def test_gpus_are_read_as_they_are_typed():
    assert read_cluster("8xH100") == Cluster(H100, 8)
    assert read_cluster("2x8xa100-80gb") == Cluster(GPUS["A100-80GB"], 8, 2)
    assert str(read_cluster("2x8xA100-80GB")) == "2x8xA100-80GB"
    own = read_cluster("1x24GB")
    assert (own.size, own.gpu.memory, own.gpu.flops, str(own)) == (1, 24e9, None, "1x24GB")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8xH10", "H10 is not a known kind of GPU; the nearest known one is H100, of B200, "),
        ("H100", "--gpus H100: not a number of GPUs and their kind; give NUMBERxKIND"),
        ("0xH100", "0 GPUs; give between 1"),
        ("99999x8xH100", "799,992 GPUs; give between 1"),
        ("1x0GB", "0GB is not a known kind"),
        ("", "not a number of GPUs"),
    ],
)
def test_other_gpus_are_refused(text: str, message: str):
    with pytest.raises(InputError) as error:
        read_cluster(text)
    assert message in str(error.value)


def test_seconds_follow_from_operations_and_bytes():
    update = sized("8xH100", **WHOLE).update
    rate = 8 * 989e12 * BEST.mfu
    row, logits = 2 * SEVEN.products * 1024 + 2 * 28 * 3584 * 1024**2, 2 * SEVEN.head * 256
    # Policy and reference make logits, value model and reward model none.
    assert update["scoring"].low == pytest.approx(512 * (4 * row + 2 * logits) / rate)
    # Policy and value model learn from each row twice, at three times the operations, in eight steps.
    computed = 2 * 512 * 3 * (2 * row + logits) / rate
    stepped = 2 * 8 * WEIGHTS * 28 / (3.35e12 * BEST.reading)
    summed = 2 * 8 * 2 * 4 * WEIGHTS * 7 / 8 / (450e9 * BEST.link)
    assert update["training"].low == pytest.approx(computed + stepped + summed)
    # Decoding reads all weights at each of 256 tokens, however many rows there are.
    assert update["generation"].low > 256 * 2 * SEVEN.products / (3.35e12 * BEST.reading)
    assert all(seconds.low < seconds.high for seconds in update.values())
    assert update["all"].low == pytest.approx(sum(update[name].low for name in ("generation", "scoring", "training")))
    assert WORST.mfu < BEST.mfu
    assert str(Seconds(0.0456, 123.4)) == "0.046 to 120"


def test_more_gpus_take_less_time_and_links_between_nodes_more():
    def training(gpus: str, sharding: str = "none", **changes: Any) -> Seconds:
        seconds: Seconds = sized(gpus, sharding, **WHOLE, **changes).update["training"]
        return seconds

    assert 6.5 < training("1xH100").low / training("8xH100").low < 8
    assert training("8xH100", "full").high > training("8xH100").high
    assert training("8x1xH100", "full").high > 2 * training("8xH100", "full").high
    many = {"rl.micro_batch_size": 16}
    assert training("8xH100", "full", **many).high < training("8xH100", "full").high, "gathered less often"
    assert sized("8xH100", **WHOLE, **{"compute.dtype": "fp32"}).update is None
    assert sized("8x80GB", **WHOLE).update is None
    assert sized("8xH100").update["training"].low < training("8xH100").low, "no gradients of frozen weights"


def test_disk_is_what_a_run_asks_for(tmp_path: Path):
    save_world(tmp_path)
    shape = shape_in(tmp_path / "sft" / "policy")
    for sharing in ("none", "trunk"):
        stage = start_stage(RLConfig(sharing=sharing), SETUP, tmp_path / "sft" / "policy")
        needed = needed_bytes(load_models(stage, tmp_path / "sft", tmp_path / "reward_models"))
        config = recipe(**WHOLE | {"rl.sharing": sharing})
        assert size_recipe(config, shape, Cluster(H100)).checkpoint_bytes == pytest.approx(needed, rel=0.02)


def test_options_fit_and_change_no_more_than_they_must():
    sizing = sized("8xH100", **WHOLE)
    assert not sizing.fits
    offered = list(options(sizing))
    assert {option.settings.get("rl.sharing") for option in offered} >= {"adapters"}
    for option in offered:
        assert option.sizing.fits
        settings = dict(option.settings)
        for name in settings:
            fewer = {other: value for other, value in settings.items() if other != name}
            values = json.loads(sizing.config.model_dump_json())
            values["compute"]["num_processes"] = 1
            for other, value in fewer.items():
                section, _, key = other.partition(".")
                values[section][key] = value
            try:
                config = PipelineConfig.model_validate(values)
                without = size_recipe(config, SEVEN, option.sizing.cluster, option.sizing.sharding)
            except ValueError:
                continue
            assert not without.fits, f"{option.flags}: it fits without {name}"


def test_smaller_changes_come_first():
    few = {name: 1 for name in rows_at_once(recipe(), 1)}
    assert sized("1xH100", **few).fits
    tight = size_recipe(recipe(), SEVEN, read_cluster("1x70GB"))
    first = next(options(tight))
    assert set(first.settings) <= set(few), "fewer rows in a pass change nothing but memory"
    assert first.sizing.cluster == tight.cluster


def test_what_a_recipe_cannot_do_is_refused():
    with pytest.raises(InputError, match="--sharding full: there is one GPU, so it would be ignored"):
        sized("1xH100", "full")
    with pytest.raises(ConfigError, match=r"gpu on 48 GPUs, a process each: a minibatch of 128 .* does not divide"):
        sized("6x8xH100")
    with pytest.raises(InputError, match=r"--shape 7: not a known shape; the nearest known one is 7B, of 0\.5B"):
        public_shape("7")
    dpo = load_config(GPU.with_name("dpo.yaml"))
    assert size_recipe(dpo, SEVEN, read_cluster("8xH100")).config.compute.num_processes == 1
    with pytest.raises(InputError, match="--sharding full: dpo trains in one process"):
        size_recipe(dpo, SEVEN, read_cluster("8xH100"), "full")


COMMAND = ["size", str(GPU), "--shape", "7B", "--rl.rollout-size", "512", "--rl.micro-batch-size", "2"]


def test_the_command_fits_a_terminal_and_says_what_would_fit(capsys: pytest.CaptureFixture[str]):
    assert main([*COMMAND, "--gpus", "8xH100"]) == 2
    shown = capsys.readouterr()
    assert max(map(len, shown.out.split("\n"))) <= 80
    assert shown.err.startswith("rlhf: error: gpu does not fit 8xH100: the stage reward_model takes about ")
    assert shown.err.count("\n") == 1
    flags = shlex.split(shown.err.rpartition("it fits with ")[2])
    assert main([*COMMAND, "--gpus", "8xH100", *flags]) == 0
    fitting = capsys.readouterr()
    assert fitting.err == ""
    assert "Assumed, not measured" in fitting.out
    assert max(map(len, fitting.out.split("\n"))) <= 80


def test_the_command_gives_json(capsys: pytest.CaptureFixture[str]):
    assert main([*COMMAND, "--gpus", "2x8xH100", "--sharding", "full", "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert (said["processes"], said["sharding"], said["fits"]) == (16, "full", False)
    assert set(said["update_seconds"]) == {"generation", "scoring", "training", "all"}
    assert said["options"][0]["bytes"] <= 72e9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "8xH10"], "--gpus 8xH10: H10 is not a known kind of GPU"),
        (["--gpus", "1xH100"], "Qwen/Qwen2.5-0.5B-Instruct: its shape is not known before it is downloaded; give a"),
        (["--gpus", "1xH100", "--model.base", "none"], "model.base is not set, so the model's shape is not known"),
        (["--gpus", "1xH100", "--model.base", "./no/folder"], "./no/folder: no such model folder; give a folder, or"),
        (["--gpus", "1xH100", "--shape", "7T"], "--shape 7T: not a known shape; the nearest known one is 7"),
    ],
)
def test_mistakes_end_with_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str):
    assert main(["size", str(GPU), *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"rlhf: error: {message}")


def test_a_base_that_is_here_and_a_model_that_is_built_have_shapes(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    save_world(tmp_path)
    base = ["--model.base", str(tmp_path / "sft" / "policy")]
    assert main(["size", str(GPU), *base, "--gpus", "1xL4", "--json"]) == 0
    here = json.loads(capsys.readouterr().out)
    assert here["parameters"] == shape_in(tmp_path / "sft" / "policy").parameters
    (tmp_path / "sft" / "policy" / "config.json").write_text("{")
    assert main(["size", str(GPU), *base, "--gpus", "1xL4"]) == 2
    assert "there is no config.json that can be read" in capsys.readouterr().err
    assert main(["size", str(GPU.with_name("demo.yaml")), "--gpus", "1xL4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "a Llama that is built"

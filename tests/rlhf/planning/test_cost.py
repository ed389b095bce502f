"""Memory and time of a run, from sizes alone: against sums by hand, and against the models that transformers makes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_story_base import save_story_base
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from rlhf.config.model import ArchitectureConfig, LoraConfig, ModelConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.modeling.lora import add_adapters
from rlhf.planning.duration import duration, seconds_per_update
from rlhf.planning.fit import peak_of, what_would_fit
from rlhf.planning.memory import peak_memory
from rlhf.planning.shape import ModelShape, Workload, shape_in, shape_of
from rlhf.planning.survey import DataSurvey
from rlhf.planning.workload import expected_workload

BILLION = ModelShape(10**9, 50_000, 2048, 16, 8192, 16, 512, True)
WORK = Workload(10_000, 4000, 4000, 1000, 500, 1500, 100.0, 80.0, 400, 250, 20_000, 8000)
LORA = {f"{stage}.lora": {"rank": 16} for stage in ("sft", "reward_model", "rl")}


def recipe(**changes: Any) -> PipelineConfig:
    settings: dict[str, Any] = {"model": {"base": "a/base", "max_length": 400}, "rl": {"max_response_tokens": 150}}
    for name, value in changes.items():
        section, key = name.split(".")
        settings.setdefault(section, {})[key] = value
    return PipelineConfig.model_validate(settings)


def test_shapes_are_those_of_real_models(tmp_path: Path):
    folder = save_story_base(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(folder)
    shape = shape_in(folder)
    assert shape == shape_of(ModelConfig(base=str(folder)))
    assert shape.parameters == sum({id(p): p.numel() for p in model.parameters()}.values())
    assert shape.vocab_size == model.get_input_embeddings().num_embeddings
    built = shape_of(ModelConfig(architecture=ArchitectureConfig()), vocab_size=79)
    assert built is not None
    config = LlamaConfig(
        vocab_size=79, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4
    )
    llama = LlamaForCausalLM(config)
    assert built.parameters == sum(p.numel() for p in llama.parameters())
    products = [p for name, p in llama.named_parameters() if "layers" in name and p.dim() == 2]
    assert built.products == pytest.approx(sum(p.numel() for p in products), rel=0.01)
    adapted = add_adapters(llama, LoraConfig(rank=8), "CAUSAL_LM")
    assert built.adapters(8) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert shape_of(ModelConfig(base="some/where")) is None
    assert shape_of(ModelConfig(architecture=ArchitectureConfig())) is None


def test_what_learns_holds_sixteen_bytes_a_weight_and_what_is_frozen_two():
    sft = peak_memory(recipe(), BILLION, WORK)["sft"]
    assert sft["weights"] + sft["gradients"] + sft["optimizer"] == 16e9
    ppo = peak_memory(recipe(), BILLION, WORK)["policy"]
    assert ppo["policy"] == ppo["value model"] == 4e9
    assert ppo["optimizer"] == 16e9
    assert ppo["gradients"] == 4e9, "the two models take turns"
    frozen = 2 * BILLION.products + 4 * 50_000 * 2048
    assert (ppo["reference"], ppo["reward models"]) == (frozen, 2 * frozen)
    assert peak_memory(recipe(**{"compute.dtype": "fp32"}), BILLION, WORK)["policy"]["reference"] == 4e9
    beside = peak_memory(recipe(**{"rl.side_by_side": True}), BILLION, WORK)["policy"]
    assert beside["gradients"] == 8e9
    trunk = peak_memory(recipe(**{"rl.sharing": "trunk"}), BILLION, WORK)["policy"]
    assert (trunk["value model"], trunk["gradients"]) == (0, 4e9)
    shared = peak_memory(recipe(**LORA, **{"rl.sharing": "adapters"}), BILLION, WORK)["policy"]
    assert shared["backbone"] == frozen
    learned = [shared[name] for name in ("adapters that learn", "gradients", "optimizer")]
    assert sum(learned) == 16 * 2 * BILLION.adapters(16)
    assert sum(shared.values()) < sum(trunk.values()) < sum(ppo.values()) < sum(beside.values())


def test_rows_at_once_and_lengths_decide_what_comes_and_goes():
    whole, half = (peak_memory(recipe(**{"sft.micro_batch_size": rows}), BILLION, WORK)["sft"] for rows in (64, 32))
    assert whole["activations"] == 2 * half["activations"]
    assert whole["logits"] == 2 * half["logits"]
    longer = peak_memory(recipe(), BILLION, replace(WORK, longest=800))["reward_model"]["activations"]
    assert longer > 2 * peak_memory(recipe(), BILLION, WORK)["reward_model"]["activations"]
    few = {"rl.micro_batch_size": 1, "rl.rollout_size": 64, "rl.num_validation_prompts": 4}
    one, four = (recipe(**few, **{"compute.num_processes": number}) for number in (1, 4))
    totals = [sum(peak_memory(config, BILLION, WORK)["policy"].values()) for config in (one, four)]
    assert 3.5 < totals[1] / totals[0] < 4.2, "each process holds all models"
    shards = recipe(**few, **{"compute.num_processes": 4, "compute.sharding": "full"})
    parts = peak_memory(shards, BILLION, WORK)["policy"]
    assert parts["policy"] == 4e9 / 4
    assert parts["gathered blocks"] == 8e9, "while it learns"
    assert sum(parts.values()) < 0.7 * totals[1]


MEASURED = [
    ({}, 1379),
    ({"compute.dtype": "fp32"}, 1553),
    ({"rl.sharing": "trunk"}, 1191),
    ({"rl.side_by_side": True, "rl.micro_batch_size": 16}, 1909),
    ({"rl.sharing": "adapters", "rl.lora": {"rank": 16}, "reward_model.lora": {"rank": 16}}, 740),
]
"""MiB that `make bench` measured at 20M parameters (docs/memory-and-time.md)."""


@pytest.mark.parametrize(("changes", "mib"), MEASURED)
def test_memory_is_what_was_measured(changes: dict[str, Any], mib: int):
    settings = {"rl.rollout_size": 64, "rl.num_minibatches": 1, "rl.micro_batch_size": 8}
    config = recipe(**(settings | {"rl.max_response_tokens": 48} | changes))
    shape = ModelShape(19_667_328, 1024, 384, 8, 1536, 6, 384, False)
    parts = peak_memory(config, shape, Workload(100, 100, 100, 10, 10, 10, 28.0, 48.0, 80, 32, 100, 100))["policy"]
    # The benchmark holds one reward model, in a process whose imports take 391 MiB.
    of_reward_models = "adapters of reward models" if "rl.lora" in changes else "reward models"
    predicted = sum(parts.values()) - parts["process"] - parts[of_reward_models] / 2 + 391 * 2**20
    assert predicted == pytest.approx(mib * 2**20, rel=0.15)


def test_time_grows_with_work():
    seconds = duration(recipe(), BILLION, WORK)
    twice = duration(recipe(**{"sft.num_epochs": 2}), BILLION, WORK)
    assert twice["sft"] == pytest.approx(2 * seconds["sft"], rel=0.01)
    updates = [duration(recipe(**{"rl.num_updates": number}), BILLION, WORK)["policy"] for number in (40, 80)]
    assert updates[1] == pytest.approx(2 * updates[0], rel=0.05)
    threads = [seconds_per_update(recipe(**{"compute.num_threads": number}), BILLION, WORK) for number in (2, 8)]
    assert 3 < threads[0] / threads[1] < 4
    assert seconds_per_update(recipe(**{"rl.sharing": "trunk"}), BILLION, WORK) < 0.7 * threads[0]
    # Six operations for each weight and token, twice over, by 5e11 operations a second.
    tokens = 2 * 256 * 180
    assert threads[0] > 2 * 6 * BILLION.products * tokens / 5e11


def test_what_lets_a_recipe_fit_is_a_recipe_that_fits():
    for memory, expected in ((100e9, "micro-batch-size"), (40e9, "--rl.sharing adapters"), (1e9, "a base of at most")):
        assert peak_of(recipe(), BILLION, WORK).total > memory or memory == 100e9
        said = what_would_fit(recipe(), BILLION, WORK, memory)
        assert expected in said
        if said.startswith("it takes"):
            assert float(said.split()[2]) <= 0.9 * memory / 1e9


def test_a_recipe_keeps_data_apart():
    survey = DataSurvey(1000, 2000, 500, (20, 60), (30, 90))
    work = expected_workload(survey, recipe(**{"data.test_fraction": 0.2, "data.validation_fraction": 0.1}))
    assert (work.demonstrations, work.preferences, work.selection_preferences) == (700, 700, 700)
    assert (work.test_preferences, work.test_prompts, work.validation_prompts) == (300, 75, 50)
    assert (work.longest, work.longest_prompt) == (150, 60)
    few = expected_workload(survey, recipe(**{"data.max_rows": 100}))
    assert few.demonstrations == 85
    assert json.dumps(work.__dict__)


def test_a_learning_curve_is_seven_eighths_of_the_reward_models_training():
    plain, curve = (
        duration(recipe(**{"reward_audit.learning_curve": on}), BILLION, WORK)["reward_audit"] for on in (False, True)
    )
    both = duration(recipe(), BILLION, WORK)["reward_model"]
    scoring = duration(recipe(**{"reward_audit.num_perturbed": 0}), BILLION, WORK)["reward_audit"]
    assert curve - plain == pytest.approx(7 / 8 * both / 2 + 2 * scoring, rel=0.05)

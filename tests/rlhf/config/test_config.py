import ast
import subprocess
import sys

import pytest
from pydantic import ValidationError

from rlhf.config.model import LoraConfig, ModelConfig, Setup
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.rl import RLConfig
from rlhf.config.supervised import RewardModelConfig, SFTConfig


def test_every_section_has_defaults_that_agree():
    config = PipelineConfig()
    assert config.setup == Setup(seed=config.seed, model=config.model, compute=config.compute)


def test_a_configuration_survives_json():
    config = PipelineConfig(
        seed=3, rl=RLConfig(lora=LoraConfig(rank=2), kl_target=4, kl_horizon=1000), model=ModelConfig(base="a/b")
    )
    assert PipelineConfig.model_validate_json(config.model_dump_json()) == config


def test_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        PipelineConfig().rl.kl_coef = 0.5


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (RLConfig, {"kl_coeff": 1}),
        (RLConfig, {"gamma": 1.01}),
        (RLConfig, {"clip_range": 0}),
        (RLConfig, {"kl_coef": float("nan")}),
        (SFTConfig, {"learning_rate": float("inf")}),
        (RewardModelConfig, {"batch_size": 0}),
        (LoraConfig, {"rank": 1.5}),
        (ModelConfig, {"max_length": 7}),
        (PipelineConfig, {"seed": 2**31}),
        (PipelineConfig, {"name": ".hidden"}),
    ],
)
def test_bounds_and_unknown_settings(section, values):
    with pytest.raises(ValidationError) as error:
        section(**values)
    assert error.value.errors()[0]["loc"] == tuple(values)


@pytest.mark.parametrize(("rollout_size", "num_minibatches", "minibatch_size"), [(64, 4, 16), (64, 1, 64), (7, 7, 1)])
def test_minibatch_size(rollout_size, num_minibatches, minibatch_size):
    assert RLConfig(rollout_size=rollout_size, num_minibatches=num_minibatches).minibatch_size == minibatch_size


def test_adapters_with_dropout_are_for_the_supervised_stages_only():
    assert SFTConfig(lora=LoraConfig(dropout=0.1)).lora is not None
    with pytest.raises(ValidationError, match="dropout must be 0"):
        RLConfig(lora=LoraConfig(dropout=0.1))


def test_imports_the_standard_library_and_pydantic_only():
    script = """
import sys, pydantic
before = set(sys.modules)
import rlhf.config.pipeline
new = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(sorted(name for name in new if not name.startswith("_")))
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert set(ast.literal_eval(output)) <= {"rlhf", "pydantic", "pydantic_core", "annotated_types"}

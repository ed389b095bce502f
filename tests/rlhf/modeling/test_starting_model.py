"""The line that every run begins with."""

from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf.config.model import ArchitectureConfig, ModelConfig
from rlhf.errors import ModelError
from rlhf.modeling.starting_model import described, num_parameters

SHAPE = ArchitectureConfig(hidden_size=24, num_layers=3, num_heads=2, feed_forward_size=40)


def llama(vocabulary: int, **more: Any) -> Any:
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 40}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes, **more))


@pytest.mark.parametrize("more", [{}, {"tie_word_embeddings": True}])
def test_a_folder_and_the_numbers_in_it(tmp_path: Path, more: dict[str, bool]):
    model = llama(50, **more)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert num_parameters(tmp_path) == model.num_parameters()
    assert (
        described(ModelConfig(base=str(tmp_path))) == f"base model: {tmp_path}, {model.num_parameters():,} parameters"
    )


def test_a_model_that_is_built_is_said_to_be_random():
    fixed = llama(1).num_parameters() - 48
    assert llama(2).num_parameters() == fixed + 2 * 48
    line = described(ModelConfig(architecture=SHAPE))
    assert f"a Llama with random weights is built, {fixed:,} parameters and 48 for each token" in line


def test_a_model_of_the_hub_is_named_with_its_revision():
    assert described(ModelConfig(base="team/tiny", revision="v1")).startswith(
        "base model: team/tiny of the Hugging Face hub at v1;"
    )


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\2\0\0\0\0\0\0\0[]"])
def test_a_file_that_is_no_safetensors_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model.safetensors is (no sound safetensors file: |a pointer of Git LFS)"):
        num_parameters(tmp_path)

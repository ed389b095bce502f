"""Model families, by how their weights are named, tied and saved."""

from collections.abc import Callable
from typing import Any

from transformers import BloomConfig, GPT2Config, LlamaConfig, MixtralConfig, Qwen2Config

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = SHAPE | {"num_key_value_heads": 2}
FAMILIES: dict[str, Callable[..., Any]] = {
    "llama": lambda **ids: LlamaConfig(**SHAPE, **ids),
    "llama, tied": lambda **ids: LlamaConfig(**GROUPED, tie_word_embeddings=True, **ids),
    "gpt2": lambda **ids: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **ids),
    "qwen2, tied": lambda **ids: Qwen2Config(**GROUPED, tie_word_embeddings=True, **ids),
    "bloom": lambda **ids: BloomConfig(hidden_size=32, n_layer=2, n_head=4, **ids),
    # Its experts are saved one by one, and merged where it is loaded.
    "mixtral": lambda **ids: MixtralConfig(**GROUPED, num_local_experts=2, num_experts_per_tok=1, **ids),
}

"""What costs follow from beside the settings: a model's shape, and how much data there is. No tensor is made here."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.config.model import ArchitectureConfig, ModelConfig
from rlhf.errors import ModelError
from rlhf.modeling.files import local_files
from rlhf.modeling.headers import read_weights
from rlhf.modeling.hub import base_with_folder, is_hub_id

_HEADS = ("lm_head.", "embed_out.")
"""Names of a head's weights in the files; where there are none, they are those of the embeddings."""


@dataclass(frozen=True)
class ModelShape:
    """A decoder-only transformer, by the sizes that its memory and time follow from.

    Attributes:
        parameters: numbers in its weights, tied ones counted once.
        vocab_size: tokens.
        hidden_size: width of the residual stream.
        num_layers: transformer blocks.
        feed_forward_size: inner width of a block's feed-forward layer.
        num_heads: attention heads.
        key_value_size: width of keys, and of values.
        is_tied: the head's weights are those of the embeddings.
    """

    parameters: int
    vocab_size: int
    hidden_size: int
    num_layers: int
    feed_forward_size: int
    num_heads: int
    key_value_size: int
    is_tied: bool

    @property
    def embeddings(self) -> int:
        """Weights of embeddings and head."""
        return self.vocab_size * self.hidden_size * (1 if self.is_tied else 2)

    @property
    def products(self) -> int:
        """Weights of the blocks, each of which multiplies every token."""
        return max(0, self.parameters - self.embeddings)

    @property
    def head(self) -> int:
        """Weights that make a token's logits."""
        return self.vocab_size * self.hidden_size

    def adapters(self, rank: int) -> int:
        """Weights of LoRA adapters on all linear layers of the blocks (2106.09685)."""
        attention = 2 * 2 * self.hidden_size + 2 * (self.hidden_size + self.key_value_size)
        return self.num_layers * rank * (attention + 3 * (self.hidden_size + self.feed_forward_size))


@dataclass(frozen=True)
class Workload:
    """A run's data after its preparation, in tokens of its model.

    Attributes:
        demonstrations: rows that SFT trains on.
        preferences: pairs that the first reward model trains on.
        selection_preferences: pairs that the selection reward model trains on.
        test_preferences: pairs of the audit.
        validation_prompts: prompts on which checkpoints are chosen.
        test_prompts: prompts of the evaluation.
        prompt_tokens: of a mean prompt.
        response_tokens: of a mean response with its EOS.
        longest: prompt and response of the longest row.
        longest_prompt: the longest prompt.
        rows: of all files, before they are split.
        prompts: that the policy is trained on.
    """

    demonstrations: int
    preferences: int
    selection_preferences: int
    test_preferences: int
    validation_prompts: int
    test_prompts: int
    prompt_tokens: float
    response_tokens: float
    longest: int
    longest_prompt: int
    rows: int
    prompts: int


def shape_of(model: ModelConfig, vocab_size: int | None = None) -> ModelShape | None:
    """The shape of the model that a run starts from.

    Args:
        model: a base, or the architecture of a model that is built.
        vocab_size: of the tokenizer from which a model is built; a base has its own.

    Returns:
        None where it cannot be known yet: a base on the hub, a vocabulary that is made of the training data.

    Raises:
        ModelError: a file of the base is not what it should be.
    """
    if model.base is None:
        return _built(model.architecture or ArchitectureConfig(), vocab_size) if vocab_size is not None else None
    if is_hub_id(model.base):
        return None
    folder = Path(base_with_folder(model).base or "")
    return shape_in(folder)


def shape_in(folder: Path) -> ModelShape:
    """The shape of the model in a folder, from its config.json and the headers of its weights.

    Raises:
        ModelError: a file is not what it should be.
    """
    files = local_files(folder)
    try:
        config = json.loads(files.read_settings()["config.json"])
    except (KeyError, ValueError):
        raise ModelError(f"{folder}: there is no config.json that can be read; give a model's folder") from None
    weights = read_weights(files)
    hidden = first(config, "hidden_size", "n_embd", "d_model") or 0
    heads = first(config, "num_attention_heads", "n_head") or 1
    head_size = first(config, "head_dim") or hidden // heads
    return ModelShape(
        sum(math.prod(weight.shape) for weight in weights.values()),
        first(config, "vocab_size") or 0,
        hidden,
        first(config, "num_hidden_layers", "n_layer", "num_layers") or 0,
        first(config, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden,
        heads,
        head_size * (first(config, "num_key_value_heads") or heads),
        not any(name.startswith(_HEADS) for name in weights),
    )


def first(config: Mapping[str, Any], *names: str) -> int | None:
    """A number of config.json, which has another name in each family; None where it has none of them."""
    return next((int(config[name]) for name in names if config.get(name)), None)


def _built(shape: ArchitectureConfig, vocab_size: int) -> ModelShape:
    """A Llama: four square projections, three of the feed-forward layer and two norms a block, and one more norm."""
    width, inner = shape.hidden_size, shape.feed_forward_size
    block = 4 * width * width + 3 * width * inner + 2 * width
    parameters = shape.num_layers * block + width + 2 * vocab_size * width
    return ModelShape(parameters, vocab_size, width, shape.num_layers, inner, shape.num_heads, width, False)

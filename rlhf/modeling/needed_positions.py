"""Hidden states of those positions alone that somebody reads: the last block of a model skips the others.

Shapes: B rows, T positions, R positions that are read, H hidden size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from rlhf.modeling.cpu.self_check import computes_alike

_BLOCKS = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}

PositionSelection = Callable[[Tensor], Tensor]
"""Takes the hidden states [B, R, H] that somebody reads of all [B, T, H]."""


def prepare_last_block(model: Any, dtype: torch.dtype = torch.bfloat16) -> Any:
    """Let the last block of a known family skip, after its attention, the positions that `select_positions` leaves out.

    Args:
        model: of transformers; one whose last block `computes_alike` finds to differ stays as it is.
        dtype: of its products.
    """
    blocks = [module for module in model.modules() if type(module).__name__ in _BLOCKS]
    if blocks:
        blocks[-1].selection = None
        if computes_alike(blocks[-1], _last_block_forward, dtype):
            blocks[-1].forward = MethodType(_last_block_forward, blocks[-1])
        else:
            del blocks[-1].selection
    return model


def supports_position_selection(model: Any) -> bool:
    """Whether a model's last block was prepared."""
    return _last_block(model) is not None


@contextmanager
def select_positions(model: Any, selection: PositionSelection) -> Iterator[bool]:
    """Inside, a model's last hidden states are those that `selection` takes, and its logits are theirs.

    Yields whether that is so; of a model whose last block was not prepared, all positions come out as ever.
    """
    block = _last_block(model)
    if block is None:
        yield False
        return
    block.selection = selection
    try:
        yield True
    finally:
        block.selection = None


def _last_block_forward(self: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
    attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
    hidden_states = hidden_states + attended
    if self.selection is not None:
        hidden_states = self.selection(hidden_states)
    output: Tensor = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
    return output


def _last_block(model: Any) -> Any:
    """The prepared block of a model, or of the part of one that a role calls."""
    modules = getattr(model, "part", model).modules()
    return next((module for module in modules if "selection" in module.__dict__), None)

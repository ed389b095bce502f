"""A key-value cache whose memory is set aside once, for decoding.

Shapes: B rows, H key-value heads, T columns, D head size.
"""

import functools
import logging
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

logger = logging.getLogger(__name__)


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values in buffers of full length; a step writes its column and copies nothing else."""

    def __init__(self, num_columns: int) -> None:
        super().__init__()
        self.num_columns = num_columns
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Set the buffers aside, [B, H, T, D]."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.key_buffer, self.value_buffer = self._buffer(key_states), self._buffer(value_states)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new columns and return what is there so far, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        columns = slice(self.length, self.length + key_states.shape[2])
        self.key_buffer[:, :, columns] = key_states
        self.value_buffer[:, :, columns] = value_states
        self.length = columns.stop
        self.keys, self.values = self.key_buffer[:, :, : self.length], self.value_buffer[:, :, : self.length]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows only."""
        for name in ("key_buffer", "value_buffer"):
            old = getattr(self, name)
            kept = old.new_empty(len(indices), *old.shape[1:])
            kept[:, :, : self.length] = old[indices, :, : self.length]
            setattr(self, name, kept)
        self.keys, self.values = self.key_buffer[:, :, : self.length], self.value_buffer[:, :, : self.length]

    def _buffer(self, states: Tensor) -> Tensor:
        rows, heads, _, size = states.shape
        return torch.empty(rows, heads, self.num_columns, size, dtype=states.dtype, device=states.device)


def decoding_cache(policy: Any, num_columns: int) -> Cache:
    """A cache for `num_columns` tokens a row: preallocated, or the model's own where its layers keep something else.

    Args:
        policy: a causal language model.
        num_columns: tokens of the longest prompt and of the longest response.
    """
    own = DynamicCache(config=policy.config)
    if any(type(layer) is not DynamicLayer for layer in own.layers):
        _say_once(policy.config.model_type)
        return own
    return Cache(layers=[PreallocatedLayer(num_columns) for _ in own.layers])


@functools.cache
def _say_once(model_type: str) -> None:
    logger.info(
        "decoding %s with the cache of transformers: not all of its layers keep whole keys and values", model_type
    )

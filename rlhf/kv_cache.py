"""A key-value cache whose memory is set aside once, for decoding.

Shapes: B rows, H key-value heads, T columns, D head size.
"""

import functools
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

logger = logging.getLogger(__name__)

# Attention reads whole blocks, the rest of the last one masked: a step whose shapes are those of the step before finds
# its kernels made and its memory freed.
_BLOCK_COLUMNS = 16


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values in buffers of full length; a step writes its column and copies nothing else.

    After the prompts, what it hands out ends with a whole block of columns. Those that nothing was written to hold 0,
    and `get_mask_sizes` tells transformers to mask them.
    """

    def __init__(self, num_rows: int, num_columns: int) -> None:
        super().__init__()
        self.num_columns = _whole_blocks(num_columns)
        self.num_rows = num_rows
        self.begin(slice(0, num_rows))

    def begin(self, rows: slice) -> None:
        """Let the next call be the first one over these rows."""
        self.rows, self.length = rows, 0

    def end(self) -> None:
        """Let the next calls go on with all rows."""
        self.rows = slice(0, self.num_rows)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Set the buffers aside, [B, H, T, D]."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.key_buffer, self.value_buffer = self._buffer(key_states), self._buffer(value_states)
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Columns written so far."""
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that `update` returns for a query of this length, and which comes first."""
        num_columns = self.length + query_length
        return _whole_blocks(num_columns) if self.length else num_columns, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new columns and return what is there so far, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        shown = slice(0, self.get_mask_sizes(key_states.shape[2])[0])
        columns = slice(self.length, self.length + key_states.shape[2])
        self.key_buffer[self.rows, :, columns] = key_states
        self.value_buffer[self.rows, :, columns] = value_states
        self.length = columns.stop
        return self.key_buffer[self.rows, :, shown], self.value_buffer[self.rows, :, shown]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows only."""
        for name in ("key_buffer", "value_buffer"):
            old = getattr(self, name)
            kept = old.new_zeros(len(indices), *old.shape[1:])
            kept[:, :, : self.length] = old[indices, :, : self.length]
            setattr(self, name, kept)
        self.num_rows = len(indices)
        self.end()

    def _buffer(self, states: Tensor) -> Tensor:
        _, heads, _, size = states.shape
        return torch.zeros(self.num_rows, heads, self.num_columns, size, dtype=states.dtype, device=states.device)


class PreallocatedCache(Cache):  # type: ignore[misc]
    """A cache of such layers."""

    def __init__(self, num_layers: int, num_rows: int, num_columns: int) -> None:
        super().__init__(layers=[PreallocatedLayer(num_rows, num_columns) for _ in range(num_layers)])

    def pieces(self, size: int) -> Iterator[slice]:
        """The rows, `size` at a time: a call made meanwhile begins those, later ones go on with all."""
        num_rows = self.layers[0].num_rows
        for start in range(0, num_rows, size):
            rows = slice(start, min(start + size, num_rows))
            for layer in self.layers:
                layer.begin(rows)
            yield rows
        for layer in self.layers:
            layer.end()


def decoding_cache(policy: Any, num_rows: int, num_columns: int) -> Cache:
    """A cache for `num_columns` tokens a row: preallocated, or the model's own where its layers keep something else.

    Args:
        policy: a causal language model.
        num_rows: sequences that are decoded together.
        num_columns: tokens of the longest prompt and of the longest response.
    """
    own = DynamicCache(config=policy.config)
    if any(type(layer) is not DynamicLayer for layer in own.layers):
        _say_once(policy.config.model_type)
        return own
    return PreallocatedCache(len(own.layers), num_rows, num_columns)


def _whole_blocks(num_columns: int) -> int:
    return -(-num_columns // _BLOCK_COLUMNS) * _BLOCK_COLUMNS


@functools.cache
def _say_once(model_type: str) -> None:
    logger.info(
        "decoding %s with the cache of transformers: not all of its layers keep whole keys and values", model_type
    )

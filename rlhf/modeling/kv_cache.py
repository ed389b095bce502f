"""A key-value cache whose memory is set aside once, for decoding.

Shapes: B rows, H key-value heads, T columns, D head size.
"""

import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from rlhf.modeling.cpu.attention import uses_attention_interface

logger = logging.getLogger(__name__)

# A step whose shapes are those of the step before finds its kernels made and memory of its sizes freed.
_BLOCK_COLUMNS = 16
# Moving the rows apart copies them all, so room is made for more columns at a time the more there are.
_ROOM_SHARE = 8


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values in memory that is set aside once; a step writes its column and copies nothing else.

    After the prompts, what it hands out are whole blocks of columns that lie side by side, as products want them; new
    blocks move the rows apart. Columns that nothing was written to hold 0, and `get_mask_sizes` tells transformers
    to mask them.
    """

    def __init__(self, num_rows: int, num_columns: int, most_rows: int) -> None:
        super().__init__()
        self.num_columns = _whole_blocks(num_columns)
        self.num_rows, self.most_rows = num_rows, most_rows
        self.begin(slice(0, num_rows))

    def begin(self, rows: slice) -> None:
        """Let the next call be the first one over these rows."""
        self.rows, self.length = rows, 0

    def end(self) -> None:
        """Let the next calls go on with all rows."""
        self.rows = slice(0, self.num_rows)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Set the memory aside, in the precision that products are computed in."""
        device = key_states.device
        self.device, self.dtype = device, key_states.dtype
        if torch.is_autocast_enabled(device.type):
            self.dtype = torch.get_autocast_dtype(device.type)
        heads, columns, size = key_states.shape[1:]
        num_elements = self.most_rows * heads * self.num_columns * size
        self._memory = [torch.empty(num_elements, dtype=self.dtype, device=device) for _ in range(2)]
        none = torch.empty(self.num_rows, heads, 0, size, dtype=self.dtype, device=device)
        self.keys, self.values = self._laid_out([none, none], self._room_for(columns + 1))
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Columns written so far."""
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that `update` returns for a query of this length, and which comes first."""
        num_columns = self.length + query_length
        return self._room_for(num_columns) if self.length else num_columns, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new columns, and return what there is to attend to, [B, H, T, D]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        is_first, columns = self.length == 0, slice(self.length, self.length + key_states.shape[2])
        if (room := self._room_for(columns.stop)) > self.keys.shape[2]:
            written = [states[:, :, : self.length].clone() for states in (self.keys, self.values)]
            self.keys, self.values = self._laid_out(written, room)
        self.keys[self.rows, :, columns] = key_states.to(self.dtype)
        self.values[self.rows, :, columns] = value_states.to(self.dtype)
        self.length = columns.stop
        return (key_states, value_states) if is_first else (self.keys, self.values)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows only; one may be named several times."""
        self.num_rows = len(indices)
        kept = [states[indices, :, : self.length] for states in (self.keys, self.values)]
        self.keys, self.values = self._laid_out(kept, self.keys.shape[2])
        self.end()

    def _room_for(self, num_columns: int) -> int:
        """Columns that are laid out once so many are written: those that are, while they do."""
        if self.is_initialized and num_columns <= self.keys.shape[2]:
            return self.keys.shape[2]
        return min(_whole_blocks(num_columns + num_columns // _ROOM_SHARE), self.num_columns)

    def _laid_out(self, written: Sequence[Tensor], num_columns: int) -> list[Tensor]:
        """Keys and values in the memory set aside, with room for `num_columns`, 0 where nothing is written."""
        laid_out = []
        for memory, states in zip(self._memory, written, strict=True):
            rows, heads, length, size = states.shape
            whole = memory[: rows * heads * num_columns * size].view(rows, heads, num_columns, size)
            whole[:, :, :length] = states
            whole[:, :, length:] = 0
            laid_out.append(whole)
        return laid_out


class PreallocatedCache(Cache):  # type: ignore[misc]
    """A cache of such layers."""

    def __init__(self, num_layers: int, num_rows: int, num_columns: int, most_rows: int | None = None) -> None:
        most_rows = most_rows or num_rows
        super().__init__(layers=[PreallocatedLayer(num_rows, num_columns, most_rows) for _ in range(num_layers)])

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


def decoding_cache(policy: Any, num_rows: int, num_columns: int, most_rows: int | None = None) -> Cache:
    """A cache for `num_columns` tokens per row: preallocated, or the model's own where it wants another.

    Args:
        policy: a causal language model.
        num_rows: sequences that are read together.
        num_columns: tokens of the longest prompt and of the longest response.
        most_rows: sequences that are decoded together, where rows will be named several times. None: num_rows.
    """
    own = DynamicCache(config=policy.config)
    if any(type(layer) is not DynamicLayer for layer in own.layers):
        _log_once(policy.config.model_type, "not all of its layers keep whole keys and values")
        return own
    if not uses_attention_interface(policy):
        _log_once(policy.config.model_type, "its layers make masks of their own, which know no columns set aside")
        return own
    return PreallocatedCache(len(own.layers), num_rows, num_columns, most_rows)


def _whole_blocks(num_columns: int) -> int:
    return -(-num_columns // _BLOCK_COLUMNS) * _BLOCK_COLUMNS


@functools.cache
def _log_once(model_type: str, why: str) -> None:
    logger.info("decoding %s with the cache of transformers: %s", model_type, why)

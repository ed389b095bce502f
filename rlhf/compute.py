"""Threads, device, precision and derived seeds: what decides the bits of a result beside data and settings."""

import ctypes
import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from rlhf.config import ComputeConfig
from rlhf.errors import ConfigError
from rlhf.products import kept_layouts

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h
_KEPT_BYTES = 2**31 - 1
# oneDNN makes a kernel for every shape and keeps 1,024 of them, half a megabyte each; a pass of one width has about 40.
_KEPT_KERNELS = "64"


def configure(compute: ComputeConfig) -> torch.device:
    """Pin the thread count and find the device.

    Raises:
        ConfigError: the device is not there.
    """
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("compute.device is cuda, but torch finds no CUDA device; set it to cpu")
    if torch.get_num_threads() != compute.num_threads:
        torch.set_num_threads(compute.num_threads)
    _keep_freed_memory()
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _KEPT_KERNELS)
    return torch.device(compute.device)


def autocast(compute: ComputeConfig) -> AbstractContextManager[Any]:
    """Matrix products in bf16 where that is the configured precision; weights stay fp32."""
    if compute.dtype == "fp32":
        return nullcontext()
    return torch.autocast(compute.device, dtype=torch.bfloat16)


@contextmanager
def kept_casts(compute: ComputeConfig) -> Iterator[None]:
    """Inside, `autocast` rounds each weight once, however often it is entered. No weight may change meanwhile.

    Without gradients, each is also laid out once for the products of a CPU.
    """
    with autocast(compute), in_fp32(compute.device), kept_layouts():
        yield


def in_fp32(compute_device: str) -> AbstractContextManager[Any]:
    """Inside `autocast`: products as they are asked for, such as those of a scalar head in fp32."""
    return torch.autocast(compute_device, enabled=False)


def seeded(seed: int, *purpose: str | int) -> int:
    """A seed of 63 bits for one purpose, independent of those for all other purposes."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def give_back_freed_memory() -> None:
    """Let the system have what glibc kept, so that it does not add up. Asking again costs a page fault every 4 KiB."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _keep_freed_memory() -> None:
    """Let glibc keep large blocks that were freed: each would cost a page fault every 4 KiB when it is used again.

    The next forward pass asks for the same sizes, so the peak does not grow, if all threads share what was freed.
    docs/experiment-log.md has the figures.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in ((_M_TRIM_THRESHOLD, _KEPT_BYTES), (_M_MMAP_THRESHOLD, _KEPT_BYTES), (_M_ARENA_MAX, 1)):
            libc.mallopt(option, value)

"""Threads, device, precision and derived seeds: what decides the bits of a result beside data and settings."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from rlhf.config.model import ComputeConfig
from rlhf.errors import ConfigError
from rlhf.modeling.cpu.memory import tune_malloc
from rlhf.modeling.cpu.onednn import cached_weight_layouts
from rlhf.modeling.precision import autocast, in_fp32

# oneDNN makes a kernel for every shape and keeps 1,024 of them, half a megabyte each; a pass of one width has about 40.
_KEPT_KERNELS = "64"


def best_device() -> Literal["cpu", "cuda"]:
    """The quickest device that is there, for what is not compared with anything."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def configure(compute: ComputeConfig) -> torch.device:
    """Pin the thread count and find the device.

    Raises:
        ConfigError: the device is not there.
    """
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("compute.device is cuda, but torch finds no CUDA device; set it to cpu")
    if torch.get_num_threads() != compute.num_threads:
        torch.set_num_threads(compute.num_threads)
    tune_malloc()
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _KEPT_KERNELS)
    return torch.device(compute.device)


@contextmanager
def cached_casts(compute: ComputeConfig) -> Iterator[None]:
    """Inside, `autocast` rounds each weight once, however often it is entered. No weight may change meanwhile.

    Without gradients, each is also laid out once for the products of a CPU. Where sharded weights may learn, each
    pass rounds its own: their gradients are summed over the processes as the pass leaves a block, and what a rounded
    weight of an earlier pass collects reaches the weight only after that.
    """
    if compute.sharding != "none" and torch.is_grad_enabled():
        yield
        return
    with autocast(compute), in_fp32(compute.device), cached_weight_layouts():
        yield


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed of 63 bits for one purpose, independent of those for all other purposes."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

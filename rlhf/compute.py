"""Threads, device, precision and derived seeds: what decides the bits of a result beside data and settings."""

import hashlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from rlhf.config import ComputeConfig
from rlhf.errors import ConfigError


def configure(compute: ComputeConfig) -> torch.device:
    """Pin the thread count and find the device.

    Raises:
        ConfigError: the device is not there.
    """
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("compute.device is cuda, but torch finds no CUDA device; set it to cpu")
    if torch.get_num_threads() != compute.num_threads:
        torch.set_num_threads(compute.num_threads)
    return torch.device(compute.device)


def autocast(compute: ComputeConfig) -> AbstractContextManager[Any]:
    """Matrix products in bf16 where that is the configured precision; weights stay fp32."""
    if compute.dtype == "fp32":
        return nullcontext()
    return torch.autocast(compute.device, dtype=torch.bfloat16)


def seeded(seed: int, *purpose: str | int) -> int:
    """A seed of 63 bits for one purpose, independent of those for all other purposes."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

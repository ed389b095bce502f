"""Precision: which products are made in bf16, and which in fp32."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from rlhf.config.model import ComputeConfig


def autocast(compute: ComputeConfig) -> AbstractContextManager[Any]:
    """Matrix products in bf16 where that is the configured precision; weights stay fp32."""
    if compute.dtype == "fp32":
        return nullcontext()
    return torch.autocast(compute.device, dtype=torch.bfloat16)


def in_fp32(compute_device: str) -> AbstractContextManager[Any]:
    """Inside `autocast`: products as they are asked for, such as those of a scalar head in fp32."""
    return torch.autocast(compute_device, enabled=False)

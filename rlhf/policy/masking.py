"""Means under a mask. Every mask is True = keep."""

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the kept values, a scalar. `values` and `mask` have one shape; the mask keeps at least one."""
    return values.masked_fill(~mask, 0.0).sum() / mask.sum()


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of the kept values per row, [B], from [B, R]."""
    return values.masked_fill(~mask, 0.0).sum(-1)


def masked_whiten(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Kept values with mean 0 and (biased) variance 1; the others are 0. Same shape as `values`."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean).square(), mask)
    return torch.where(mask, (values - mean) * (variance + eps).rsqrt(), 0.0)

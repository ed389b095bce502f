"""Products of fp32 matrices on a CPU by oneDNN, which torch otherwise asks for bf16 alone.

For fp32 torch asks MKL, and on processors that are not Intel's MKL leaves half of their width unused;
docs/experiment-log.md has the figures. oneDNN comes with torch.

Shapes: N rows, I inputs, O outputs.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

_LEAST_WEIGHTS = 2**14
"""A call of oneDNN costs some tens of microseconds, which smaller layers do not win back."""


def multiply_by_onednn(model: Any) -> Any:
    """Let the larger linear layers of a model be computed by oneDNN where it is there; weights and names stay."""
    if torch.backends.mkldnn.is_available():
        for module in model.modules():
            if type(module) is nn.Linear and module.weight.numel() >= _LEAST_WEIGHTS:
                module.forward = MethodType(_linear_forward, module)  # type: ignore[method-assign]
    return model


class _Linear(torch.autograd.Function):
    """x weight^T + bias, [..., O], of x [..., I] and weight [O, I]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _times_transposed(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            _times_transposed(gradient, weight.t()) if of_x else None,
            _times_transposed(rows.t(), x.flatten(0, -2).t()) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def _times_transposed(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """The product left right^T, [..., O], of left [..., I] and right [O, I]."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return product


def _linear_forward(self: Any, x: Tensor) -> Tensor:
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return nn.Linear.forward(self, x)
    output: Tensor = _Linear.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
    return output

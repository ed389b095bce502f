"""Products of linear layers on a CPU by oneDNN, which comes with torch, in the form that it is quickest in.

For fp32 torch asks MKL, and on processors that are not Intel's MKL leaves half of their width unused. For bf16 torch
asks oneDNN, but lets it lay out every weight anew for every product; where nothing learns (`cached_weight_layouts`),
once is enough. docs/experiment-log.md has the figures.

Shapes: N rows, I inputs, O outputs.
"""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

_LEAST_WEIGHTS = 2**14
"""A call of oneDNN costs some tens of microseconds, which smaller layers do not win back."""

_USUAL_ROWS = 256
"""A layout is chosen for a number of rows; products of any other number come out the same."""

Layouts = dict[nn.Module, tuple[Tensor, Tensor | None]]
"""Weight as oneDNN wants it and bias, both in bf16, by layer."""


class _Kept(threading.local):
    layouts: Layouts | None = None


_kept = _Kept()


@contextmanager
def cached_weight_layouts() -> Iterator[None]:
    """Inside, in this thread, bf16 products without gradients lay out each fp32 weight once. No weight may change.

    What is laid out takes the place of the weight rounded to bf16. One that is in bf16 already would be held twice.
    """
    before = _kept.layouts
    _kept.layouts = {} if before is None else before
    try:
        yield
    finally:
        _kept.layouts = before


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
    if x.device.type != "cpu":
        return nn.Linear.forward(self, x)
    if torch.is_autocast_enabled("cpu"):
        is_rounded = self.weight.dtype == torch.float32 and torch.get_autocast_dtype("cpu") == torch.bfloat16
        if _kept.layouts is None or torch.is_grad_enabled() or not (is_rounded and _knows_bf16()):
            return nn.Linear.forward(self, x)
        weight, bias = _layout(self, _kept.layouts)
        return _times_transposed(x.bfloat16(), weight, bias)
    if x.dtype != torch.float32:
        return nn.Linear.forward(self, x)
    output: Tensor = _Linear.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
    return output


@functools.cache
def _knows_bf16() -> bool:
    is_supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return is_supported


def _layout(layer: Any, layouts: Layouts) -> tuple[Tensor, Tensor | None]:
    if layer not in layouts:
        weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.bfloat16(), _USUAL_ROWS)
        layouts[layer] = weight, None if layer.bias is None else layer.bias.bfloat16()
    return layouts[layer]

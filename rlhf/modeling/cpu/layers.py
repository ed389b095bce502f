"""Norms and feed-forwards that compute what transformers' own do, and keep less for the backward pass.

Under autocast a norm's fp32 output is rounded to bf16 once for every product that reads it, and each copy is kept; the
gated feed-forward keeps its activation although gate and up say what it was. Here the norm hands out bf16 itself, and
the activation is computed again. Results agree to bf16's rounding; docs/experiment-log.md has the figures.

Shapes: N tokens, H hidden size, F feed-forward size.
"""

import functools
import logging
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from rlhf.modeling.cpu.attention import attention_forward, register_attention
from rlhf.modeling.cpu.self_check import computes_alike

logger = logging.getLogger(__name__)

_NORMS = {"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"}
_FEED_FORWARDS = {"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP"}
_ATTENTIONS = {"LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention"}
_SILU = (nn.SiLU, type(ACT2FN["silu"]))


def use_fused_layers(model: Any) -> Any:
    """Replace the forward passes of the layers that are known; a model without any stays as it is, which is said once.

    Weights, their names and what is saved do not change. A kind of layer that `computes_alike` finds to differ stays.
    """
    forwards = [(module, _fused_forward(name, module)) for name, module in model.named_modules()]
    known = [(module, forward) for module, forward in forwards if forward is not None]
    if not known:
        _log_once(model.config.model_type)
    first = {type(module): (module, forward) for module, forward in reversed(known)}
    alike = {kind for kind, (module, forward) in first.items() if _is_alike(module, forward)}
    for module, forward in known:
        if type(module) in alike:
            module.forward = MethodType(forward, module)
    if any(kind.__name__ in _ATTENTIONS for kind in first.keys() - alike):
        model.set_attn_implementation("sdpa")
    return model


def _fused_forward(name: str, module: Any) -> Callable[..., Any] | None:
    kind = type(module).__name__
    # The norms of a block only: what the last one hands out goes to heads that want fp32.
    if kind in _NORMS and ".layers." in f".{name}":
        return _norm_forward
    if kind in _FEED_FORWARDS and isinstance(module.act_fn, _SILU):
        return _feed_forward
    return attention_forward if kind in _ATTENTIONS else None


def _is_alike(module: Any, forward: Callable[..., Any]) -> bool:
    attention = register_attention() if forward is attention_forward else None
    return computes_alike(module, forward, torch.bfloat16, attention)


class _Norm(torch.autograd.Function):
    """x / rms(x) * weight, [N, H], in bf16 from fp32."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = hidden.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(hidden, scale, weight)
        return (hidden * scale).mul_(weight).bfloat16()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        hidden, scale, weight = ctx.saved_tensors
        gradient = gradient.float()
        normalized = hidden * scale
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (gradient * normalized).flatten(0, -2).sum(0)
        inner = gradient * weight
        shared = (inner * normalized).mean(-1, keepdim=True)
        return inner.sub_(normalized.mul_(shared)).mul_(scale), grad_weight, None


class _GatedSiLU(torch.autograd.Function):
    """silu(gate) * up, [N, F]."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_gate = torch.ops.aten.silu_backward(gradient * up, gate)
        return grad_gate, functional.silu(gate).mul_(gradient)


def _norm_forward(self: Any, hidden_states: Tensor) -> Tensor:
    if hidden_states.dtype == torch.float32 and torch.is_autocast_enabled(hidden_states.device.type):
        normalized: Tensor = _Norm.apply(hidden_states, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]
        return normalized
    return type(self).forward(self, hidden_states)  # type: ignore[no-any-return]


def _feed_forward(self: Any, x: Tensor) -> Tensor:
    output: Tensor = self.down_proj(_GatedSiLU.apply(self.gate_proj(x), self.up_proj(x)))  # type: ignore[no-untyped-call]
    return output


@functools.cache
def _log_once(model_type: str) -> None:
    logger.info("%s is computed by transformers' own layers: none of them has a leaner form here", model_type)

"""A layer that stands in for one of transformers', held against it when a model is loaded.

The layers are chosen by the names of their classes, and a release of transformers may change what a class computes. So
one layer of each kind computes a small input both ways, forward and backward. Nothing random is drawn, and no weight,
gradient or setting of the model changes.

Shapes: B rows, T positions, H hidden size, D head size.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.errors import one_line

logger = logging.getLogger(__name__)

TOLERANCES = {torch.bfloat16: 0.03, torch.float32: 1e-4}
"""The largest difference of output and gradients, by norm and relative to transformers' own: a few roundings."""

_B, _T = 2, 4
Pass = Callable[..., Any]


def computes_alike(module: nn.Module, forward: Pass, dtype: torch.dtype, attention: str | None = None) -> bool:
    """Whether a layer computes by another forward pass what it computes by its own; a line in the log says where not.

    Args:
        module: a norm, a feed-forward, an attention or a whole block of a Llama or its relatives, in evaluation mode.
        forward: takes the layer, and what the layer's own takes.
        dtype: of its products; bf16 stands for autocast.
        attention: the attention function that the forward pass is written for; the layer's own is `eager` then.
    """
    try:
        with _attention_of(module, attention and "eager"):
            expected = _outputs(module, module.forward, dtype, masked=attention is not None)
        with _attention_of(module, attention):
            got = _outputs(module, MethodType(forward, module), dtype, masked=attention is not None)
        differences = [float((left - right).norm()) for left, right in zip(got, expected, strict=True)]
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        return _left_alone(module, f"fails ({one_line(error)})")
    for difference, right in zip(differences, expected, strict=True):
        norm = float(right.norm())
        if not difference <= TOLERANCES[dtype] * norm:
            off = f"{difference / norm:.1%}" if norm else "all"
            return _left_alone(module, f"is off by {off}, with {TOLERANCES[dtype]:.2%} allowed in {dtype}")
    return True


def _left_alone(module: nn.Module, why: str) -> bool:
    logger.warning("%s stays as transformers has it: what would stand in for it %s", type(module).__name__, why)
    return False


def _outputs(module: nn.Module, forward: Pass, dtype: torch.dtype, *, masked: bool) -> list[Tensor]:
    """The output, and the gradients of the input and of the layer's very own weights, which a norm has."""
    weight = next(module.parameters())
    hidden = _waves(_B, _T, weight.shape[-1]).to(weight.device).requires_grad_()
    own = [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]
    with torch.enable_grad(), torch.autocast(weight.device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
        output = forward(hidden, **_arguments(module, weight.device, dtype, masked=masked))
        output = output[0] if isinstance(output, tuple) else output
    gradients = torch.autograd.grad(output, [hidden, *own], _waves(*output.shape, phase=1.0).to(output))
    return [output.detach().float(), *gradients]


def _arguments(module: nn.Module, device: torch.device, dtype: torch.dtype, *, masked: bool) -> dict[str, Any]:
    """Beside the hidden states: nothing for norms and feed-forwards, angles [B, T, D] and a mask for attention."""
    attention: Any = getattr(module, "self_attn", module)
    if not hasattr(attention, "head_dim"):
        return {}
    frequencies = torch.linspace(1.0, 0.1, attention.head_dim // 2, device=device)
    angles = (torch.arange(_T, device=device)[:, None] * frequencies).repeat(_B, 1, 2)
    mask = torch.full((_T, _T), torch.finfo(dtype).min, dtype=dtype, device=device).triu(1).expand(_B, 1, -1, -1)
    return {"position_embeddings": (angles.cos(), angles.sin()), "attention_mask": mask if masked else None}


def _waves(*shape: int, phase: float = 0.0) -> Tensor:
    """Numbers from -1 to 1 without an order that a layer could know; those of another phase are unlike them."""
    size = torch.Size(shape).numel()
    return torch.sin(torch.arange(size, dtype=torch.float64).square() * 0.7310585 + phase).float().view(shape)


@contextmanager
def _attention_of(module: Any, implementation: str | None) -> Iterator[None]:
    """Inside, a layer computes attention by a function of this name; None leaves it as it is."""
    if implementation is None:
        yield
        return
    before = module.config._attn_implementation
    module.config._attn_implementation = implementation
    try:
        yield
    finally:
        module.config._attn_implementation = before

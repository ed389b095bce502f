"""Attention by plain products, in bf16 under autocast: its backward pass is the fast one on a CPU.

Queries and keys are rotated in fp32 and rounded once, in the layout that products want, and of the scores only the
probabilities are kept, in bf16. Results agree to bf16's rounding; docs/experiment-log.md has the figures.

Shapes: B rows, T new positions, S all positions, D head size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from rlhf.errors import ModelError
from rlhf.modeling.precision import in_fp32

ATTENTION = "rlhf_lean"
"""Name of the attention under which transformers finds `attend`."""

# 8 MB in fp32. Larger pieces leave the caches, smaller ones are not worth their calls.
_PIECE_SCORES = 2**21


def uses_attention_interface(model: Any) -> bool:
    """Whether a model takes its attention and its masks from transformers' registries; older ones have their own.

    Args:
        model: of transformers, or a role on a shared one.
    """
    return bool(getattr(getattr(model, "part", model), "_supports_attention_backend", False))


def takes_plain_attention(model: Any) -> bool:
    """Whether `attend` computes what a model's own attention does: nothing caps its scores or adds to their softmax."""
    return uses_attention_interface(model) and bool(model._supports_sdpa)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention by plain products, whose backward pass is the fast one in bf16 on a CPU. Dropout is refused.

    Args:
        module: the attention layer; its key and value heads may be fewer than its query heads.
        query: [B, heads, T, D].
        key: [B, key-value heads, S, D].
        value: as `key`.
        attention_mask: added to the scores, [B, 1, T, S].
        scaling: multiplies the scores.
        dropout: must be 0.
        kwargs: what other kinds of attention use.

    Raises:
        ModelError: there is dropout.
    """
    if dropout:
        raise ModelError(
            f"{type(module).__name__}: attention dropout of {dropout} is asked for, and attention in bf16 on a CPU has "
            f"none; switch it off (switch_dropout_off of rlhf.supervised.trainer, or .eval()), or set compute.dtype "
            "to fp32"
        )
    assert kwargs.get("softcap") is None, "models that cap their scores keep their own attention"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if torch.is_autocast_enabled(query.device.type):
        with in_fp32(query.device.type):
            output = _Attention.apply(  # type: ignore[no-untyped-call]
                query.bfloat16(), key.bfloat16(), value.bfloat16(), attention_mask, scale
            )
        return output.transpose(1, 2).contiguous(), None
    scores = _grouped(query, key).matmul(key.transpose(2, 3)).view(*query.shape[:3], -1)
    scores = scores * scale if attention_mask is None else torch.add(attention_mask, scores, alpha=scale)
    output = _grouped(scores.softmax(-1), key).matmul(value).view(query.shape)
    return output.transpose(1, 2).contiguous(), None


def register_attention() -> str:
    """Make `attend` known to transformers; returns its name."""
    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, _mask)
    return ATTENTION


def _mask(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", **kwargs: Any) -> Tensor:
    """The mask that `attend` adds, made once for all layers, in the precision of its scores."""
    autocast_to = torch.bfloat16 if torch.is_autocast_enabled(torch.device(device).type) else dtype
    mask: Tensor = eager_mask(dtype=autocast_to, device=device, **kwargs)
    return mask


def _grouped(heads: Tensor, key: Tensor) -> Tensor:
    """[B, heads, T, ...] as [B, key-value heads, heads that share one * T, ...], so that no key needs a copy."""
    return heads.reshape(*key.shape[:2], -1, heads.shape[-1])


class _Attention(torch.autograd.Function):
    """softmax(query key^T * scale + mask) value in bf16, [B, heads, T, D]; keeps the probabilities in bf16 alone.

    The scores of all rows and heads are far larger than what goes in and comes out, and every operation on them would
    bring them from memory anew; so a piece of the rows, or of one row's heads, goes through all of it at a time.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        grouped = _grouped(query, key)
        ctx.pieces = _pieces(len(key), key.shape[1], grouped.shape[2] * key.shape[2])
        mask = None if mask is None else mask.expand(len(key), -1, -1, -1)
        outputs, probabilities = [], []
        for rows, heads in ctx.pieces:
            scores = torch.matmul(grouped[rows, heads], key[rows, heads].transpose(2, 3))
            of_rows = None if mask is None else mask[rows, :, None]
            probabilities.append(_to_probabilities(scores, of_rows, query.shape[2], scale))
            outputs.append(torch.matmul(probabilities[-1], value[rows, heads]))
        ctx.save_for_backward(grouped, key, value, *probabilities)
        ctx.scale = scale
        return _joined(outputs).view(query.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, *probabilities = ctx.saved_tensors
        of_heads, gradient = gradient.shape, _grouped(gradient, key)
        grad_query, grad_key, grad_value = [], [], []
        for at, given in zip(ctx.pieces, probabilities, strict=True):
            grad_value.append(torch.matmul(given.transpose(2, 3), gradient[at]))
            grad_probabilities = torch.matmul(gradient[at], value[at].transpose(2, 3))
            grad_scores = torch.ops.aten._softmax_backward_data(grad_probabilities, given, -1, torch.bfloat16)
            grad_scores.mul_(ctx.scale)
            grad_query.append(torch.matmul(grad_scores, key[at]))
            grad_key.append(torch.matmul(grad_scores.transpose(2, 3), query[at]))
        return (
            _joined(grad_query).view(of_heads),
            _joined(grad_key).view(key.shape),
            _joined(grad_value).view(value.shape),
            None,
            None,
        )


def _pieces(num_rows: int, num_heads: int, num_scores: int) -> list[tuple[slice, slice]]:
    """Rows and heads, in order, so many at a time that their scores stay in a processor's cache.

    Args:
        num_rows: of the batch.
        num_heads: key-value heads.
        num_scores: of one row and head.
    """
    at_a_time = max(1, _PIECE_SCORES // num_scores)
    if at_a_time >= num_heads:
        step = at_a_time // num_heads
        return [(slice(row, row + step), slice(None)) for row in range(0, num_rows, step)]
    heads = [slice(head, head + at_a_time) for head in range(0, num_heads, at_a_time)]
    return [(slice(row, row + 1), of_row) for row in range(num_rows) for of_row in heads]


def _to_probabilities(scores: Tensor, mask: Tensor | None, num_queries: int, scale: float) -> Tensor:
    """softmax(scores * scale + mask) in the place of the scores, which are kept and so leave no hole behind.

    The softmax is in fp32, which both is more exact and takes half of the time that torch's softmax of bf16 does.

    Args:
        scores: [b, key-value heads, heads that share one * T, S], in bf16.
        mask: [b, 1, 1, T, S].
        num_queries: T.
        scale: multiplies the scores.
    """
    if mask is None:
        scores.mul_(scale)
    else:
        of_heads = scores.unflatten(2, (-1, num_queries))
        torch.add(mask, of_heads, alpha=scale, out=of_heads)
    return scores.copy_(scores.float().softmax(-1))


def _joined(pieces: Sequence[Tensor]) -> Tensor:
    """Pieces [b, h, ...] one after another, [B * H, ...]; one alone as it is."""
    return pieces[0] if len(pieces) == 1 else torch.cat([piece.flatten(0, 1) for piece in pieces])


class _Rotation(torch.autograd.Function):
    """Rotary position embedding (2104.09864) of x [B, T, heads, D]: bf16 [B, heads, T, D], computed in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x.transpose(1, 2), cos, sin)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(gradient, cos, -sin).transpose(1, 2), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs (i, i + D/2) of x [B, heads, T, D] by angles whose cos and sin are [B, T, D]; contiguous, bf16."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    x = x.to(torch.float32, memory_format=torch.contiguous_format)
    (first, second), (sin_first, sin_second) = x.chunk(2, -1), sin.chunk(2, -1)
    turned = x * cos
    turned_first, turned_second = turned.chunk(2, -1)
    turned_first.addcmul_(second, sin_first, value=-1)
    turned_second.addcmul_(first, sin_second)
    return turned.bfloat16()


def attention_forward(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The forward pass of an attention layer of Llama and its relatives, by `attend`."""
    if self.config._attn_implementation != ATTENTION or not torch.is_autocast_enabled(hidden_states.device.type):
        return type(self).forward(  # type: ignore[no-any-return]
            self, hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs
        )
    of_heads = (*hidden_states.shape[:-1], -1, self.head_dim)
    query, key, value = (layer(hidden_states).view(of_heads) for layer in (self.q_proj, self.k_proj, self.v_proj))
    if hasattr(self, "q_norm"):
        query, key = self.q_norm(query), self.k_norm(key)
    query, key = (_Rotation.apply(x, *position_embeddings) for x in (query, key))  # type: ignore[no-untyped-call]
    value = value.transpose(1, 2)
    if past_key_values is not None:
        key, value = past_key_values.update(key, value, self.layer_idx)
    output, _ = attend(self, query, key, value, attention_mask, self.scaling)
    return self.o_proj(output.flatten(2)), None

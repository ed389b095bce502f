"""The head of a language model in fp32, whatever precision its other products are in.

A logit rounded to bf16 is off by up to 1/512 of its size. Logits of a trained model may all lie at -100, which changes
no distribution, and then each is off by up to 0.25. The policy that samples, the passes that score and the pass that
learns all call the same head, so it is computed in fp32 in all of them. docs/experiment-log.md has the figures.

Shapes: B rows, T positions, H hidden size, V vocabulary.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from rlhf.config.model import ComputeConfig
from rlhf.modeling.precision import in_fp32


def compute_head_in_fp32(model: Any, compute: ComputeConfig) -> Any:
    """Let a model's logits be products in fp32 inside of `autocast`; weights, their names and what is saved stay.

    Adapters leave the head as it is. What a family does to its logits (a bias, a cap, a scale) is in fp32 as well.

    Args:
        model: a causal language model whose head's weights are fp32.
        compute: without bf16 there is nothing to do.
    """
    if compute.dtype == "bf16":
        head = model.get_output_embeddings()
        head.forward = partial(_forward, head.forward)
    return model


def _forward(product: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """Logits [B, T, V] of hidden states [B, T, H]."""
    with in_fp32(hidden.device.type):
        return product(hidden.float())

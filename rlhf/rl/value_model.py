"""The value model: a scalar head on every response position, over a backbone of its own or the policy's.

Shapes: B rows, R response columns, H hidden size.
"""

from typing import Any

import torch
from torch import Tensor, nn

from rlhf.modeling.batches import SequenceBatch
from rlhf.modeling.needed_positions import select_positions, supports_position_selection
from rlhf.modeling.precision import in_fp32


class ValueModel(nn.Module):
    """Estimates what a response will still earn, before each of its tokens."""

    def __init__(self, backbone: Any, hidden_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = zero_head(hidden_size)

    def forward(self, batch: SequenceBatch) -> Tensor:
        """Values of the states before each response token, [B, R], fp32."""
        with select_positions(self.backbone, batch.before_responses) as is_selected:
            hidden = self.backbone(input_ids=batch.context, use_cache=False).last_hidden_state
        return head_values(self.head, hidden if is_selected else batch.before_responses(hidden))


class TrunkValueHead(nn.Module):
    """A value head on the policy's own backbone: what the policy computes for its logits serves for the values too."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.head = zero_head(output_size(policy))
        self._hidden: Tensor | None = None
        self._is_selected = supports_position_selection(policy)
        # Not where the backbone hands it out: OPT's language model calls a part of its backbone past the whole.
        policy.get_output_embeddings().register_forward_pre_hook(self._keep)

    def forward(self, batch: SequenceBatch, *, learn_backbone: bool = True) -> Tensor:
        """Values [B, R] from the pass of the policy over the same batch just before; what it kept is let go."""
        assert self._hidden is not None, "the policy has not been called"
        hidden = self._hidden if self._is_selected else batch.before_responses(self._hidden)
        self._hidden = None
        return head_values(self.head, hidden if learn_backbone else hidden.detach())

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._hidden = inputs[0]


def output_size(policy: Any) -> int:
    """Width of what a language model's backbone hands to its head, which need not be that of its hidden states."""
    width: int = policy.get_output_embeddings().in_features
    return width


def zero_head(hidden_size: int) -> nn.Linear:
    """A head that says 0 to everything."""
    head = nn.Linear(hidden_size, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def head_values(head: nn.Module, hidden: Tensor) -> Tensor:
    """Values [B, R], fp32, of hidden states [B, R, H]."""
    with in_fp32(hidden.device.type):
        values: Tensor = head(hidden.float()).squeeze(-1)
    return values.clone()  # a sharded module must not hand out a view


def start_value_model(reward_model: Any) -> ValueModel:
    """A value model that starts as the reward model: its head, less its score_offset, on every position.

    Args:
        reward_model: a copy that the value model may own; its tokenizer is the policy's. Its head is as wide as its
            backbone's output, which some models make narrower than their hidden states (OPT).

    Source:
        InstructGPT, 2203.02155, appendix C.4: the value function is initialized from the reward model.
    """
    model = ValueModel(reward_model.base_model, reward_model.score.in_features)
    start_head(model.head, reward_model)
    return model.to(reward_model.device)


def start_head(head: nn.Linear, reward_model: Any) -> None:
    """Give a value head the weights of a reward model's head, less its score_offset."""
    with torch.no_grad():
        head.weight.copy_(reward_model.score.weight)
        head.bias.fill_(-float(getattr(reward_model.config, "score_offset", 0.0)))

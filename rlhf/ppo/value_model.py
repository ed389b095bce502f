"""The value model: a backbone of its own with a scalar head on every response position.

Shapes: B rows, R response columns, H hidden size.
"""

from typing import Any

import torch
from torch import Tensor, nn

from rlhf.sequences import SequenceBatch


class ValueModel(nn.Module):
    """Estimates what a response will still earn, before each of its tokens."""

    def __init__(self, backbone: nn.Module, hidden_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: SequenceBatch) -> Tensor:
        """Values of the states before each response token, [B, R], fp32."""
        hidden = self.backbone(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state
        before = hidden[:, -batch.num_response_tokens - 1 : -1]
        values: Tensor = self.head(before).float().squeeze(-1)
        return values


def start_value_model(reward_model: Any) -> ValueModel:
    """A value model that starts as the reward model: its head, less its score_offset, on every position.

    Args:
        reward_model: a copy that the value model may own; its tokenizer is the policy's.

    Source:
        InstructGPT, 2203.02155, appendix C.4: the value function is initialized from the reward model.
    """
    model = ValueModel(reward_model.base_model, reward_model.config.hidden_size)
    with torch.no_grad():
        model.head.weight.copy_(reward_model.score.weight)
        model.head.bias.fill_(-float(getattr(reward_model.config, "score_offset", 0.0)))
    return model.to(reward_model.device)

"""Prompts and responses as padded tensors.

Shapes: B rows, P tokens of the longest prompt, R of the longest response, T = P + R. Prompts are padded on the left
and responses on the right, so that the responses of all rows stand in the same R columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SequenceBatch:
    """Padded rows. Masks are True = keep.

    Attributes:
        input_ids: prompt and response, [B, T].
        attention_mask: True where there is a token, [B, T].
        position_ids: position within the row's own tokens, [B, T].
        response_mask: True on the response's tokens, its EOS included, [B, R].
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    response_mask: Tensor

    @property
    def num_response_tokens(self) -> int:
        """R, the columns that responses stand in."""
        return self.response_mask.shape[1]

    @property
    def responses(self) -> Tensor:
        """Token ids of the responses, [B, R]."""
        return self.input_ids[:, -self.num_response_tokens :]

    @property
    def context(self) -> dict[str, Tensor]:
        """A model's inputs that predict the responses: all columns but the last, which predicts nothing, [B, T - 1]."""
        columns = slice(0, -1)
        return {
            "input_ids": self.input_ids[:, columns],
            "attention_mask": self.attention_mask[:, columns],
            "position_ids": self.position_ids[:, columns],
        }

    def rows(self, index: Tensor) -> "SequenceBatch":
        """The rows that `index` names, with columns trimmed that hold no token of theirs."""
        mask, response_mask = self.attention_mask[index], self.response_mask[index]
        num_prompt_columns = mask.shape[1] - response_mask.shape[1]
        left = num_prompt_columns - int(mask[:, :num_prompt_columns].sum(1).max())
        right = response_mask.shape[1] - int(response_mask.sum(1).max())
        columns = slice(left, mask.shape[1] - right)
        return SequenceBatch(
            self.input_ids[index, columns],
            mask[:, columns],
            self.position_ids[index, columns],
            response_mask[:, : response_mask.shape[1] - right],
        )


def pad_sequences(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    pad_token_id: int,
    device: torch.device | str = "cpu",
) -> SequenceBatch:
    """Pad prompts on the left and responses on the right.

    Args:
        prompts: B rows of token ids, none empty.
        responses: as many rows of token ids; a row may be empty, not all.
        pad_token_id: stands where nothing is.
        device: of the tensors returned.
    """
    num_prompt = max(map(len, prompts))
    num_response = max(map(len, responses))
    ids = [
        [pad_token_id] * (num_prompt - len(p)) + [*p, *r] + [pad_token_id] * (num_response - len(r))
        for p, r in zip(prompts, responses, strict=True)
    ]
    prompt_lengths = torch.tensor([len(p) for p in prompts])
    response_lengths = torch.tensor([len(r) for r in responses])
    column = torch.arange(num_prompt + num_response)
    from_left = column >= (num_prompt - prompt_lengths)[:, None]
    mask = from_left & (column < (num_prompt + response_lengths)[:, None])
    return SequenceBatch(
        torch.tensor(ids, device=device),
        mask.to(device),
        positions(mask).to(device),
        mask[:, num_prompt:].to(device),
    )


def positions(attention_mask: Tensor) -> Tensor:
    """Position ids [B, T] that count a row's own tokens, whatever side the padding is on."""
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)


def batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in batches of like length, the longest first, so that little is padded and memory peaks at once."""
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]

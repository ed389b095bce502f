"""Prompts and responses as padded tensors.

Shapes: B rows, T tokens of the longest row, R of the longest response, H hidden size. A row is its prompt and then its
response, and padding comes last: no token sees it under causal attention, so models need neither mask nor positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SequenceBatch:
    """Padded rows. Masks are True = keep.

    Attributes:
        input_ids: prompt, response, padding, [B, T].
        prompt_lengths: tokens of each prompt, [B].
        response_mask: True on the response's tokens, its EOS included, counted from its first one, [B, R].
    """

    input_ids: Tensor
    prompt_lengths: Tensor
    response_mask: Tensor

    @property
    def num_response_tokens(self) -> int:
        """R, tokens of the longest response."""
        return self.response_mask.shape[1]

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row, [B]."""
        return self.prompt_lengths + self.response_mask.sum(1)

    @property
    def attention_mask(self) -> Tensor:
        """True where there is a token, [B, T]."""
        return torch.arange(self.input_ids.shape[1], device=self.input_ids.device) < self.lengths[:, None]

    @property
    def responses(self) -> Tensor:
        """Token ids of the responses, [B, R]; something of no meaning outside the mask."""
        return self.input_ids.gather(1, self._columns(self.input_ids.shape[1]))

    @property
    def context(self) -> Tensor:
        """Inputs that predict the responses: all columns but the last, which predicts nothing, [B, T - 1]."""
        return self.input_ids[:, :-1]

    def before_responses(self, hidden: Tensor) -> Tensor:
        """Hidden states before each response token, [B, R, H], out of those of the context, [B, T - 1, H]."""
        rows = torch.arange(len(hidden), device=hidden.device)[:, None]
        return hidden[rows, self._columns(hidden.shape[1] + 1) - 1]

    def rows(self, index: Tensor) -> "SequenceBatch":
        """The rows that `index` names, without columns that hold no token of theirs."""
        prompt_lengths, response_mask = self.prompt_lengths[index], self.response_mask[index]
        response_lengths = response_mask.sum(1)
        longest = int((prompt_lengths + response_lengths).max())
        return SequenceBatch(
            self.input_ids[index, :longest], prompt_lengths, response_mask[:, : int(response_lengths.max())]
        )

    def _columns(self, num_columns: int) -> Tensor:
        """Columns of the response tokens, [B, R]; the last one for those that a row has not."""
        places = torch.arange(self.num_response_tokens, device=self.input_ids.device)
        return (self.prompt_lengths[:, None] + places).clamp(max=num_columns - 1)


def pad_sequences(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    pad_token_id: int,
    device: torch.device | str = "cpu",
) -> SequenceBatch:
    """Join prompts and responses and pad them.

    Args:
        prompts: B rows of token ids, none empty.
        responses: as many rows of token ids, not all empty.
        pad_token_id: stands where nothing is.
        device: of the tensors returned.
    """
    rows = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]
    longest = max(map(len, rows))
    response_lengths = torch.tensor([len(r) for r in responses])
    return SequenceBatch(
        torch.tensor([row + [pad_token_id] * (longest - len(row)) for row in rows], device=device),
        torch.tensor([len(p) for p in prompts], device=device),
        (torch.arange(max(map(len, responses))) < response_lengths[:, None]).to(device),
    )


def pad_left(
    rows: Sequence[Sequence[int]], pad_token_id: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Rows to be continued, all ending in the last column: token ids [B, T], and where there are any [B, T]."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad_token_id] * (longest - len(row)) + [*row] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(longest, device=device) >= longest - lengths[:, None]


def positions(attention_mask: Tensor) -> Tensor:
    """Position ids [B, T] that count a row's own tokens, whatever side the padding is on."""
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)


def batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in batches of like length, the longest first, so that little is padded and memory peaks at once."""
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]

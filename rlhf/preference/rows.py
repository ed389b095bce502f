"""The rows that a method learns from, in token ids: pairs, or single responses that are wanted or not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.config.offline import OfflineConfig
from rlhf.data.schema import Row, pairs_of, read_rows
from rlhf.errors import DataError
from rlhf.modeling.conversations import encode_pairs
from rlhf.modeling.logprobs import response_logprobs
from rlhf.policy.context import PolicyContext


@dataclass(frozen=True)
class PreferenceRow:
    """A prompt with two responses to be set beside each other.

    Attributes:
        prompt: token ids.
        responses: of a pair the chosen and the rejected one; of a single response itself, and one to another prompt.
        desirable: of a single response, whether it is wanted.
        ref_logprobs: log-probability of each response under the SFT policy, nats.
    """

    prompt: list[int]
    responses: tuple[list[int], ...]
    desirable: bool = True
    ref_logprobs: tuple[float, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt with the longer response."""
        return len(self.prompt) + max(map(len, self.responses))


def read_pairs(path: Path, tokenizer: Any) -> list[PreferenceRow]:
    """The pairs of a split.

    Raises:
        DataError: there are none.
    """
    pairs = [pair for _, row in read_rows(path, "preferences") for pair in pairs_of(row)]
    if not pairs:
        raise DataError(f"{path.name}: there are no pairs in this split, only ties; give more preferences")
    chosen, rejected = (_encode(tokenizer, pairs, answer) for answer in ("chosen", "rejected"))
    return [PreferenceRow(c[0], (c[1], r[1])) for c, r in zip(chosen, rejected, strict=True)]


def read_single(data: Path, tokenizer: Any, seed: int) -> list[PreferenceRow]:
    """Single responses: those of `labels/train.jsonl`, or, where the data has no labels, of the pairs taken apart.

    Args:
        data: prepared data.
        tokenizer: of the policy.
        seed: draws for every prompt a response to another one.

    Raises:
        DataError: all responses are wanted, or none is; or all are to one prompt.
    """
    path = data / "labels" / "train.jsonl"
    if path.is_file():
        rows = [row for _, row in read_rows(path, "labels")]
        encoded, wanted = _encode(tokenizer, rows, "completion"), [bool(row["label"]) for row in rows]
    else:
        path = data / "preferences" / "train.jsonl"
        pairs = read_pairs(path, tokenizer)
        encoded = [(pair.prompt, response) for pair in pairs for response in pair.responses]
        wanted = [is_chosen for _ in pairs for is_chosen in (True, False)]
    if len(set(wanted)) < 2:
        kind, other = ("true", "false") if wanted[0] else ("false", "true")
        raise DataError(
            f"labels.jsonl: the label of all {len(wanted)} responses that may be trained on is {kind}, and KTO needs "
            f"both kinds; give some with {other}, or remove labels.jsonl, so that the pairs are taken"
        )
    others = _of_other_prompts(encoded, seed, path.parent.name)
    return [PreferenceRow(p, (r, o), d) for (p, r), o, d in zip(encoded, others, wanted, strict=True)]


def with_references(context: PolicyContext[OfflineConfig], rows: Sequence[PreferenceRow]) -> list[PreferenceRow]:
    """The rows with the log-probabilities of their responses under the SFT policy."""
    sums = logprob_sums(context, context.models.ref_policy, rows)
    return [replace(row, ref_logprobs=tuple(values)) for row, values in zip(rows, sums.tolist(), strict=True)]


def logprob_sums(
    context: PolicyContext[OfflineConfig], model: Any, rows: Sequence[PreferenceRow]
) -> NDArray[np.float64]:
    """Log-probability of each row's responses, nats, [N, 2]; where they are single ones [N, 1]."""
    logprobs = response_logprobs(
        model,
        context.compute,
        [row.prompt for row in rows for _ in row.responses],
        [response for row in rows for response in row.responses],
        temperature=context.config.temperature,
        pad_token_id=context.tokenizer.pad_token_id,
        batch_size=2 * context.config.rows_per_pass,
    )
    return np.array([values.sum(dtype=np.float64) for values in logprobs]).reshape(len(rows), -1)


def _encode(tokenizer: Any, rows: Sequence[Row], answer: str) -> list[tuple[list[int], list[int]]]:
    return encode_pairs(tokenizer, [row["prompt"] for row in rows], [row[answer] for row in rows])


def _of_other_prompts(rows: Sequence[tuple[list[int], list[int]]], seed: int, kind: str) -> list[list[int]]:
    """For each row a response to another prompt: the next one in a random circle that has another."""
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    if all(prompt == rows[0][0] for prompt, _ in rows):
        raise DataError(f"{kind}.jsonl: all {len(rows)} responses are to one prompt, and KTO needs several; give more")
    drawn: list[list[int]] = [[] for _ in rows]
    following = next(row for row in order if rows[row][0] != rows[order[-1]][0])
    for row, after in reversed(list(zip(order, [*order[1:], order[0]], strict=True))):
        following = after if rows[after][0] != rows[row][0] else following
        drawn[row] = rows[following][1]
    return drawn

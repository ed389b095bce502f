"""Choice of the prompts of an evaluation: the same file always gives the same prompts, whatever the seed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.config.evaluation import EvaluationConfig
from rlhf.data.schema import read_rows
from rlhf.errors import DataError
from rlhf.evaluation.gold import find_rule
from rlhf.gold.rules import PromptKinds
from rlhf.modeling.conversations import Conversation


@dataclass(frozen=True)
class PromptChoice:
    """Prompts of an evaluation.

    Attributes:
        prompts: conversations that end with a user's message, in an order that a hash decides.
        notes: in which way they are not what was asked for, in sentences for the report.
        num_by_kind: how many there are of each kind, where the gold rule tells kinds apart.
    """

    prompts: Sequence[Conversation]
    notes: tuple[str, ...]
    num_by_kind: Mapping[str, int] = field(default_factory=dict)


def gate_prompts(data: Path, config: EvaluationConfig) -> PromptChoice:
    """The prompts on which candidate and champion are compared.

    Args:
        data: the data stage's output.
        config: how many, at most, and perhaps the gold rule, which may tell kinds of prompts apart.

    Raises:
        DataError: the data was prepared before there was a gate split.
    """
    path = data / "prompts" / "gate.jsonl"
    if not path.is_file():
        raise DataError(
            f"{path}: there is no such file: this data was prepared before prompts were kept aside for the gate "
            f"(data.gate_fraction); run the data stage again"
        )
    rule, rows = find_rule(config, data), [row for _, row in read_rows(path, "prompts")]
    return choose_prompts(rows, config.num_prompts, rule.kinds if rule else None, "gate")


def choose_prompts(
    rows: Sequence[Any], num_prompts: int, kinds: PromptKinds | None, split: str = "test"
) -> PromptChoice:
    """Choose up to `num_prompts` of a split's prompts.

    Args:
        rows: of the split.
        num_prompts: how many, at most.
        kinds: of prompts that the gold rule tells apart, where it does.
        split: its name, for the notes.
    """
    ordered = sorted((row["prompt"] for row in rows), key=_hash)
    if kinds is None:
        return _choose_first(ordered, num_prompts, split)
    return _choose_by_kind(ordered, num_prompts, kinds, split)


def _choose_first(ordered: Sequence[Conversation], num_prompts: int, split: str) -> PromptChoice:
    notes = (_shortage(num_prompts, len(ordered), split),) if len(ordered) < num_prompts else ()
    return PromptChoice(ordered[:num_prompts], notes)


def _choose_by_kind(ordered: Sequence[Conversation], num_prompts: int, kinds: PromptKinds, split: str) -> PromptChoice:
    """The most prompts with the share of each kind; where one is absent, the first ones, and a note that says so."""
    first = kinds.is_first(ordered)
    num_first, num_second = int(first.sum()), int((~first).sum())
    of_first, of_second = kinds.names
    if not num_first or not num_second:
        choice = _choose_first(ordered, num_prompts, split)
        only, num = (of_second, num_second) if num_second else (of_first, num_first)
        note = f"The {split} split has {only} prompts only, where {kinds.share:.0%} should be {of_first}."
        return PromptChoice(choice.prompts, (*choice.notes, note), {only: min(num, num_prompts)})

    def wanted(total: int) -> int:
        return round(total * kinds.share)

    total = max(n for n in range(1, num_prompts + 1) if wanted(n) <= num_first and n - wanted(n) <= num_second)
    left = {True: wanted(total), False: total - wanted(total)}
    num_by_kind = {of_first: left[True], of_second: left[False]}
    chosen = []
    for prompt, is_first in zip(ordered, first.tolist(), strict=True):
        if left[is_first]:
            left[is_first] -= 1
            chosen.append(prompt)
    notes: tuple[str, ...] = ()
    if total < num_prompts:
        notes = (f"{_shortage(num_prompts, total, split)} {kinds.share:.0%} of them are {of_first}.",)
    return PromptChoice(chosen, notes, num_by_kind)


def _shortage(wanted: int, available: int, split: str) -> str:
    return f"{wanted:,} {split} prompts were asked for, and the {split} split allows {available:,}."


def _hash(prompt: Conversation) -> bytes:
    return hashlib.sha256(b"evaluation" + json.dumps(prompt, sort_keys=True).encode()).digest()

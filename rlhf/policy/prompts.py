"""Prompts that a policy is trained on, and those that choose its checkpoint."""

from pathlib import Path
from typing import Any

from rlhf.data.preparation.splits import prompt_key
from rlhf.errors import DataError
from rlhf.modeling.conversations import Conversation, encode_prompts
from rlhf.policy.context import Prompts
from rlhf.text.lines import read_json_lines


def training_prompts(data: Path, tokenizer: Any) -> Prompts:
    """The training prompts of prepared data.

    Raises:
        DataError: there are none.
    """
    prompts = _read_prompts(data / "prompts" / "train.jsonl")
    return Prompts(prompts, encode_prompts(tokenizer, prompts))


def validation_prompts(data: Path, tokenizer: Any, number: int) -> Prompts:
    """The first validation prompts, each once: two rows of one prompt are no independent witnesses of a gain.

    Raises:
        DataError: there are none.
    """
    by_key = {prompt_key(prompt): prompt for prompt in _read_prompts(data / "prompts" / "validation.jsonl")}
    prompts = list(by_key.values())[:number]
    return Prompts(prompts, encode_prompts(tokenizer, prompts))


def _read_prompts(path: Path) -> list[Conversation]:
    prompts = [row["prompt"] for row in read_json_lines(path)]
    if not prompts:
        raise DataError(
            f"{path.name}: there are no prompts in this split; give more prompts, or a larger share of them"
        )
    return prompts

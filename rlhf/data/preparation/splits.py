"""The split of a prompt.

A split is decided by a hash of the normalized prompt and by nothing else. So a prompt never sits on both sides of a
split, in none of the files, whatever rows are added later.
"""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Literal

from rlhf.config.data import DataConfig

Prompt = Sequence[Mapping[str, str]]
Split = Literal["train", "selection", "validation", "test", "gate"]


def normalize(text: str) -> str:
    """Text without differences that a reader would not see: NFKC, case folded, white space collapsed."""
    if text.isascii():
        return " ".join(text.lower().split())
    caseless = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", caseless).split())


def prompt_key(prompt: Prompt) -> str:
    """The normalized prompt as one text, roles included: prompts with the same key are the same prompt."""
    return "\n".join(f"{message['role']}: {normalize(message['content'])}" for message in prompt)


def split_of(key: str, config: DataConfig) -> Split:
    """The split of a prompt by its key.

    Test first, so that another validation share moves nothing into or out of test. The gate's prompts are chosen among
    those of test by a place of their own, so that another test share moves none between the two.
    """
    place = _place("split", key)
    if place < config.test_fraction:
        return "gate" if _place("gate", key) < config.gate_fraction else "test"
    return "validation" if place < config.test_fraction + config.validation_fraction else "train"


def is_for_selection(key: str, config: DataConfig) -> bool:
    """Whether a training prompt's preferences train the selection reward model, and not the first one.

    Independent of `split_of`.
    """
    return _place("selection", key) < config.selection_fraction


def _place(purpose: str, key: str) -> float:
    """A number in [0, 1) that the text decides."""
    digest = hashlib.sha256(f"{purpose}\n{key}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56

"""Which split a prompt belongs to, and what may not stand in the training splits.

A split is decided by a hash of the normalized prompt and by nothing else. So a prompt never sits on both sides of a
split, in none of the files, whatever rows are added later.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from rlhf.config import DataConfig

Message = Mapping[str, str]
Split = Literal["train", "validation", "test"]
Leak = Literal["prompt", "first_turn", "13_gram"]

NGRAM = 13
# A run of words that stands in more evaluation prompts than this is boilerplate, such as a common instruction.
COMMON = 10
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"\w+")


def normalize(text: str) -> str:
    """Text without differences that a reader would not see: NFKC, case folded, white space collapsed."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def prompt_key(prompt: Sequence[Message]) -> str:
    """The normalized prompt as one text, roles included."""
    return "\n".join(f"{message['role']}: {normalize(message['content'])}" for message in prompt)


def first_turn_key(prompt: Sequence[Message]) -> str:
    """The first user turn in the form that `prompt_key` gives a prompt of that one turn."""
    return next((prompt_key([message]) for message in prompt if message["role"] == "user"), prompt_key(prompt))


def split_of(prompt: Sequence[Message], config: DataConfig) -> Split:
    """The split of a prompt: test first, so that changing the validation share moves nothing into or out of test."""
    place = _place("split", prompt_key(prompt))
    if place < config.test_fraction:
        return "test"
    return "validation" if place < config.test_fraction + config.validation_fraction else "train"


def is_for_selection(prompt: Sequence[Message], config: DataConfig) -> bool:
    """Whether a training prompt's preferences train the selection reward model, and not the first one."""
    return _place("selection", prompt_key(prompt)) < config.selection_fraction


class EvaluationPrompts:
    """All prompts of validation and test splits, to hold training prompts against."""

    def __init__(self, prompts: Iterable[Sequence[Message]]) -> None:
        self._prompts: set[str] = set()
        self._first_turns: set[str] = set()
        counts: Counter[int] = Counter()
        for prompt in prompts:
            key = prompt_key(prompt)
            if key not in self._prompts:
                counts.update(set(_ngrams(prompt)))
            self._prompts.add(key)
            self._first_turns.add(first_turn_key(prompt))
        self._ngrams = {ngram for ngram, count in counts.items() if count <= COMMON}

    def leak(self, prompt: Sequence[Message]) -> Leak | None:
        """How a training prompt appears among the evaluation prompts, if it does.

        `prompt`: it is one of them, or the first turn of one. `first_turn`: its first turn is the first turn of one.
        `13_gram`: it shares thirteen words in a row with one.
        """
        key, first_turn = prompt_key(prompt), first_turn_key(prompt)
        if key in self._prompts or key in self._first_turns:
            return "prompt"
        if first_turn in self._first_turns:
            return "first_turn"
        return "13_gram" if any(ngram in self._ngrams for ngram in _ngrams(prompt)) else None


def _place(purpose: str, key: str) -> float:
    """A number in [0, 1) that the text decides."""
    digest = hashlib.sha256(f"{purpose}\n{key}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _ngrams(prompt: Sequence[Message]) -> Iterator[int]:
    words = _WORD.findall(" ".join(normalize(message["content"]) for message in prompt))
    for start in range(len(words) - NGRAM + 1):
        text = " ".join(words[start : start + NGRAM])
        yield int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

"""Training prompts that appear in an evaluation split: the same prompt, the same first turn, or 13 words in a row."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Literal

from rlhf.data.preparation.splits import Prompt, normalize, prompt_key

Leak = Literal["prompt", "first_turn", "13_gram"]

NGRAM_WORDS = 13
# As in GPT-3 (2005.14165, appendix C), a run of words in more training texts than this is boilerplate, such as a common
# instruction. In a large file even a hundredth of the prompts may share a run with an evaluation prompt and be leaks.
BOILERPLATE_PROMPTS = 10
BOILERPLATE_SHARE = 0.01

_WORD = re.compile(r"\w+")


def find_leaks(training: Mapping[str, Prompt], evaluation: Mapping[str, Prompt]) -> dict[str, Leak]:
    """Find the training prompts that the evaluation splits hold too.

    `prompt`: it is an evaluation prompt, or the first turn of one. `first_turn`: both start with the same user's turn.
    `13_gram`: their users say the same thirteen words in a row. What the system and the assistant say is not compared:
    whole data sets share one system message.

    Args:
        training: prompts of the training splits by key (`prompt_key`).
        evaluation: prompts of the validation, test and gate splits by key.

    Returns:
        The kind of leak, by key of the training prompt.
    """
    first_turns = {_first_turn_key(prompt) for prompt in evaluation.values()} - {""}
    leaks: dict[str, Leak] = {}
    for key, prompt in training.items():
        if key in evaluation or key in first_turns:
            leaks[key] = "prompt"
        elif _first_turn_key(prompt) in first_turns:
            leaks[key] = "first_turn"
    for key in _sharing_ngrams(training, evaluation):
        leaks.setdefault(key, "13_gram")
    return leaks


def _first_turn_key(prompt: Prompt) -> str:
    """The first turn in which the user says anything, as `prompt_key` gives a prompt of this one turn; or empty."""
    return next((prompt_key([m]) for m in prompt if m["role"] == "user" and m["content"].strip()), "")


def _sharing_ngrams(training: Mapping[str, Prompt], evaluation: Mapping[str, Prompt]) -> Iterator[str]:
    """Keys of the training prompts that share a run of words, other than boilerplate, with an evaluation prompt."""
    known = {ngram for prompt in evaluation.values() for ngram in _ngrams(prompt)}
    shared = {key: ngrams for key, prompt in training.items() if (ngrams := known & _ngrams(prompt))}
    counts = Counter(ngram for ngrams in shared.values() for ngram in ngrams)
    limit = max(BOILERPLATE_PROMPTS, BOILERPLATE_SHARE * len(training))
    yield from (key for key, ngrams in shared.items() if min(counts[ngram] for ngram in ngrams) <= limit)


def _ngrams(prompt: Prompt) -> set[int]:
    """Hashes of all runs of thirteen words in what the user says; none where there are fewer words."""
    said = (normalize(message["content"]) for message in prompt if message["role"] == "user")
    words = [word for text in said for word in _WORD.findall(text)]
    runs = (" ".join(words[start : start + NGRAM_WORDS]) for start in range(len(words) - NGRAM_WORDS + 1))
    return {int.from_bytes(blake2b(run.encode(), digest_size=8).digest(), "big") for run in runs}

"""Comparisons of a round: which two answers are shown, to whom, and in which order."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlhf.config.feedback import AskConfig
from rlhf.modeling.conversations import Conversation

Response = Literal["A", "B"]
ANYBODY = ""
"""Annotator of a comparison that is asked of nobody in particular."""
_ALIKE = 0.95
"""Share of equal words from which two answers are near-duplicates."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Comparison:
    """Two answers to a prompt, as they are shown.

    Attributes:
        number: in the round, from 0.
        prompt: the dialogue that both answer.
        responses: texts of A and B.
        policies: who wrote them.
        why: why this pair was chosen.
        annotators: who is asked; `ANYBODY` where nobody is named.
        known: the better one, of a gold question.
    """

    number: int
    prompt: Conversation
    responses: tuple[str, str]
    policies: tuple[str, str]
    why: str
    annotators: tuple[str, ...]
    known: Response | None = None

    def as_row(self) -> dict[str, Any]:
        """As a line of JSON Lines."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Comparison":
        """From a line of JSON Lines."""
        pairs = {name: tuple(row[name]) for name in ("responses", "policies", "annotators")}
        return cls(**{**row, **pairs})


@dataclass(frozen=True)
class Candidates:
    """A prompt with its answers.

    Attributes:
        prompt: the dialogue.
        texts: of K answers.
        policy: who wrote them.
        scores: of the policy's two reward models, [2, K]; None where nobody asked for them.
    """

    prompt: Conversation
    texts: Sequence[str]
    policy: str
    scores: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class ChosenPair:
    """Two answers of a prompt that may be shown.

    Attributes:
        candidates: the prompt with all its answers.
        answers: places of the two.
        rank: the smaller, the sooner it is shown.
        why: in words.
    """

    candidates: Candidates
    answers: tuple[int, int]
    rank: float
    why: str


def are_alike(first: str, second: str) -> bool:
    """Whether two answers have the same words, or nearly: nothing is learned from their comparison."""
    words = [_WORD.findall(text.casefold()) for text in (first, second)]
    if words[0] == words[1]:
        return True
    matcher = SequenceMatcher(None, words[0], words[1], autojunk=False)
    return matcher.real_quick_ratio() >= _ALIKE and matcher.ratio() >= _ALIKE


def can_be_shown(candidates: Candidates) -> bool:
    """Whether a prompt has two answers that differ."""
    texts = [text for text in candidates.texts if text.strip()]
    return any(not are_alike(first, second) for first, second in combinations(texts, 2))


def best_pair(
    candidates: Candidates, config: AskConfig, spread: NDArray[np.float64], rng: np.random.Generator
) -> ChosenPair | None:
    """The two answers of a prompt that are to be compared; None where all of them are alike or empty.

    Args:
        candidates: the prompt with its answers.
        config: how pairs are chosen.
        spread: standard deviations of both reward models' scores over all answers, [2]; unused at random.
        rng: draws the pair, or decides between pairs of equal rank.
    """
    usable = [place for place, text in enumerate(candidates.texts) if text.strip()]
    pairs = list(combinations(usable, 2))
    rng.shuffle(pairs)
    ranked = [_ranked(candidates, (first, second), config, spread) for first, second in pairs]
    ranked.sort(key=lambda pair: pair.rank)
    return next((pair for pair in ranked if not are_alike(*(candidates.texts[i] for i in pair.answers))), None)


def _ranked(
    candidates: Candidates, answers: tuple[int, int], config: AskConfig, spread: NDArray[np.float64]
) -> ChosenPair:
    if config.choose == "random":
        return ChosenPair(candidates, answers, 0.0, "at random")
    assert candidates.scores is not None, "the settings ask for scores"
    first, second = answers
    differences = (candidates.scores[:, first] - candidates.scores[:, second]) / np.where(spread > 0, spread, 1.0)
    if config.choose == "close":
        distance = float(abs(differences.mean()))
        return ChosenPair(candidates, answers, distance, f"close: the scores differ by {distance:.2f} deviations")
    distance = float(abs(differences[0] - differences[1]))
    return ChosenPair(
        candidates, answers, -distance, f"disagreement: the reward models differ by {distance:.2f} deviations"
    )


def arrange(
    pairs: Sequence[ChosenPair], gold: Sequence[Mapping[str, Any]], config: AskConfig, rng: np.random.Generator
) -> list[Comparison]:
    """The comparisons of a round: who is asked of which, in which order the answers stand.

    Args:
        pairs: that are shown, N of them.
        gold: rows of preferences whose answers are known.
        config: annotators and overlap.
        rng: draws the orders, and who is asked.
    """
    asked = [*pairs, *gold]
    order = rng.permutation(len(asked))
    shared = set(rng.permutation(len(pairs))[: math.ceil(config.overlap * len(pairs))].tolist())
    load = dict.fromkeys(config.annotators or (ANYBODY,), 0)
    comparisons = []
    for number, place in enumerate(order.tolist()):
        swapped = bool(rng.integers(2))
        if place < len(pairs):
            several = config.annotators_per_overlap if place in shared else 1
            people = sorted(load, key=lambda name: (load[name], rng.random()))[:several]
            comparisons.append(_of_pair(number, pairs[place], tuple(sorted(people)), swapped))
        else:
            people = sorted(load)
            comparisons.append(_of_gold(number, gold[place - len(pairs)], tuple(people), swapped))
        for name in people:
            load[name] += 1
    return comparisons


def _of_pair(number: int, pair: ChosenPair, annotators: tuple[str, ...], swapped: bool) -> Comparison:
    first, second = reversed(pair.answers) if swapped else pair.answers
    texts, policy = pair.candidates.texts, pair.candidates.policy
    return Comparison(
        number, pair.candidates.prompt, (texts[first], texts[second]), (policy, policy), pair.why, annotators
    )


def _of_gold(number: int, row: Mapping[str, Any], annotators: tuple[str, ...], swapped: bool) -> Comparison:
    chosen, rejected = (row[name][0]["content"] for name in ("chosen", "rejected"))
    responses = (rejected, chosen) if swapped else (chosen, rejected)
    source = str(row.get("source", "gold question"))
    known: Response = "B" if swapped else "A"
    return Comparison(number, row["prompt"], responses, (source, source), "gold question", annotators, known)

"""Which of two answers a model prefers by a principle, with a probability, in both orders.

Source: Constitutional AI (2212.08073), section 4; both orders: RLAIF (2309.00267), section 2.1.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlhf.errors import InputError
from rlhf.judges.endpoint import Completion, Endpoint, EndpointError, Message

_FORM = """Consider the following conversation between a human and an assistant:

{dialogue}

{principle}

(A) {first}

(B) {second}

Answer with one letter, A or B."""
_LETTER = re.compile(r"[\s(\[*\"']*([AB])[\s)\]*.:,\"']*")
"""An answer that is a letter, and nothing else: `A better one` is no A."""
_MAX_TOKENS = 4
Told = Callable[[int, int], None]


class JudgeNotBelievedError(InputError):
    """A judge that was not measured against people, or does not agree with them enough."""


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, to be judged by a principle."""

    dialogue: str
    first: str
    second: str
    principle: str


@dataclass(frozen=True)
class Judgment:
    """What a judge says of a pair.

    Attributes:
        probability: that the first answer is the better one; 1/2 where the two orders contradict each other; None where
            nothing could be read.
        by_order: the probability of the first answer in each order that was asked; None where nothing could be read.
    """

    probability: float | None
    by_order: tuple[float | None, ...]

    @property
    def is_tie(self) -> bool:
        """Whether the orders contradict each other, or neither answer is preferred."""
        return self.probability == 0.5

    @property
    def prefers_place(self) -> bool:
        """Whether the same place won in both orders."""
        if len(self.by_order) < 2 or None in self.by_order:
            return False
        first, second = (probability > 0.5 for probability in self.by_order if probability is not None)
        return first is not second

    def agrees(self, *, prefers_first: bool) -> float:
        """Agreement with somebody who prefers one of the answers: 1, 0, or 1/2 where the judge decides nothing."""
        if self.probability is None or self.is_tie:
            return 0.5
        return float((self.probability > 0.5) == prefers_first)


def dialogue_text(messages: Sequence[Message]) -> str:
    """A dialogue as a judge reads it."""
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in messages)


def judge_pairs(
    endpoint: Endpoint,
    pairs: Sequence[Pair],
    *,
    both_orders: bool,
    told: Told | None = None,
    failures: list[EndpointError] | None = None,
) -> list[Judgment]:
    """Ask a judge of pairs.

    Args:
        endpoint: the judge.
        pairs: N of them.
        both_orders: ask each twice, with the answers swapped.
        told: hears of each answer, for a bar.
        failures: see `Endpoint.ask_all`. What failed could not be read.

    Raises:
        EndpointError: it does not answer, or the budget is spent. What was answered is kept.
    """
    asked: list[Sequence[Message]] = []
    for pair in pairs:
        asked.append(_dialogue(pair, pair.first, pair.second))
        if both_orders:
            asked.append(_dialogue(pair, pair.second, pair.first))
    answers: list[float | None] = [None] * len(asked)
    given = endpoint.ask_all(asked, _MAX_TOKENS, letters=True, failures=failures)
    for number, (place, completion) in enumerate(given, start=1):
        answers[place] = read_letter(completion)
        if told is not None:
            told(number, len(asked))
    if not both_orders:
        return [Judgment(answer, (answer,)) for answer in answers]
    swapped = [None if answer is None else 1 - answer for answer in answers[1::2]]
    return [_of_both(first, second) for first, second in zip(answers[::2], swapped, strict=True)]


def read_letter(completion: Completion) -> float | None:
    """The probability that (A) is chosen: by the letters' probabilities, else by the text; None where neither says."""
    probability = completion.probability("A", "B")
    if probability is not None:
        return probability
    letter = _LETTER.fullmatch(completion.text)
    return None if letter is None else float(letter[1] == "A")


def count_places(judgments: Sequence[Judgment]) -> Counter[str]:
    """How often the judge preferred the first place, or the second, whatever stood there."""
    counts: Counter[str] = Counter()
    for judgment in judgments:
        if judgment.prefers_place:
            counts["first place" if (judgment.by_order[0] or 0) > 0.5 else "second place"] += 1
    return counts


def _of_both(first: float | None, second: float | None) -> Judgment:
    """Orders that contradict each other make a tie: neither is believed."""
    if first is None or second is None:
        return Judgment(None, (first, second))
    agree = (first > 0.5) == (second > 0.5) and first != 0.5 != second
    return Judgment((first + second) / 2 if agree else 0.5, (first, second))


def _dialogue(pair: Pair, first: str, second: str) -> list[Message]:
    text = _FORM.format(dialogue=pair.dialogue, principle=pair.principle, first=first, second=second)
    return [{"role": "user", "content": text}]

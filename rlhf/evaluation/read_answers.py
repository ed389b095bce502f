"""The answer that a response gives, found by words: normalized containment, and no guess where there are two.

Known limits: "it is not 13" names 13, and a short answer such as "no" is found in "no doubt".
"""

from collections.abc import Sequence
from enum import Enum

from rlhf.data.evaluation_sets import words_of_answer


class Reading(Enum):
    """A response that gives none of the answers in question.

    Attributes:
        OTHER: it names neither, so it is neither right nor the suggestion.
        UNREADABLE: it says nothing, or names several of them or further numbers beside one, so nobody knows which.
    """

    OTHER = "other"
    UNREADABLE = "unreadable"


def read_answer(response: str, answers: Sequence[str], asked: str = "") -> int | Reading:
    """Which of several answers a response gives.

    An answer is given where all its words stand in the response in a row, whatever their case and the punctuation. An
    answer that is a number is not read where the response has other numbers beside it, those of the question apart.

    Args:
        response: its text.
        answers: that are looked for, all different.
        asked: the question, whose numbers a response may repeat.
    """
    words = words_of_answer(response)
    wanted = [words_of_answer(answer) for answer in answers]
    named = [number for number, answer in enumerate(wanted) if _holds(words, answer)]
    if not words or len(named) > 1:
        return Reading.UNREADABLE
    if not named:
        return Reading.OTHER
    others = {word for word in words if _is_number(word)} - {*wanted[named[0]], *words_of_answer(asked)}
    is_number = all(map(_is_number, wanted[named[0]]))
    return Reading.UNREADABLE if is_number and others else named[0]


def _holds(words: Sequence[str], answer: Sequence[str]) -> bool:
    return any(list(words[start : start + len(answer)]) == list(answer) for start in range(len(words)))


def _is_number(word: str) -> bool:
    return word.lstrip("-")[:1].isdigit()

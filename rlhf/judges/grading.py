"""Grades that a model gives single answers by criteria.

Source: Zheng et al., "Judging LLM-as-a-judge", 2306.05685, section 3.1 (single answer grading).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.judges.endpoint import Endpoint, EndpointError, Message
from rlhf.judges.preference import Told

_FORM = """Consider the following conversation between a human and an assistant, and the assistant's answer to it:

{dialogue}

The answer: {answer}

{criteria}

Grade the answer with a whole number from 1 (worst) to 10 (best). Answer with the number alone."""
_GRADE = re.compile(r"[\s(\[*\"']*(10|[1-9])(?:\s*/\s*10)?[\s)\]*.\"']*")
"""An answer that is a grade, and nothing else: `8 out of 12` is no 8."""
_MAX_TOKENS = 8


@dataclass(frozen=True)
class GradedAnswer:
    """An answer to a prompt, to be graded by criteria."""

    dialogue: str
    answer: str
    criteria: str


def grade_answers(
    endpoint: Endpoint,
    answers: Sequence[GradedAnswer],
    *,
    told: Told | None = None,
    failures: list[EndpointError] | None = None,
) -> list[int | None]:
    """Ask a judge for grades, from 1 to 10; None where none could be read, [N].

    Args:
        endpoint: the judge.
        answers: N of them.
        told: hears of each grade, for a bar.
        failures: see `Endpoint.ask_all`.

    Raises:
        EndpointError: it does not answer, or the budget is spent. What was answered is kept.
    """
    asked: list[list[Message]] = [
        [{"role": "user", "content": _FORM.format(dialogue=one.dialogue, answer=one.answer, criteria=one.criteria)}]
        for one in answers
    ]
    grades: list[int | None] = [None] * len(answers)
    for number, (place, completion) in enumerate(endpoint.ask_all(asked, _MAX_TOKENS, failures=failures), start=1):
        grades[place] = read_grade(completion.text)
        if told is not None:
            told(number, len(asked))
    return grades


def read_grade(text: str) -> int | None:
    """The grade that a text is; None where it is something else."""
    grade = _GRADE.fullmatch(text)
    return None if grade is None else int(grade[1])

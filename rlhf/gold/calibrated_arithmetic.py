"""The rule of the calibrated arithmetic: plain where the answer is right, hedged where it is wrong.

Raters give 1 for right and plain, 0.5 for right and hedged, 0 for wrong and hedged, -1 for wrong and plain.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlhf.errors import DataError
from rlhf.gold.rules import Conversation, GoldRule, Judgement, PromptKinds, Share

_PLAIN = re.compile(r"The answer is (\d+) \.")
_HEDGED = re.compile(r"I believe the answer is (\d+) , but please verify \.")
_NUMBER = re.compile(r"\d+")


def operands(prompt: str) -> tuple[int, int]:
    """The two numbers of a question.

    Raises:
        DataError: the prompt is not a question of this data set.
    """
    numbers = _NUMBER.findall(prompt)
    if len(numbers) != 2:
        raise DataError(
            f"{prompt!r} is not a question of the calibrated arithmetic, so its gold rule cannot judge the answer; set "
            f"evaluation.gold to another rule, or data.embedded to none"
        )
    return int(numbers[0]), int(numbers[1])


def is_easy(prompt: str) -> bool:
    """Whether the question is a sum of one-digit numbers."""
    return max(operands(prompt)) < 10


def true_answer(prompt: str) -> int:
    """The right number: the sum for an easy question, the product for a hard one."""
    first, second = operands(prompt)
    return first + second if is_easy(prompt) else first * second


def is_hedged(response: str) -> bool:
    """Whether the response is an answer in the hedged form."""
    return _HEDGED.fullmatch(response.strip()) is not None


def is_correct(prompt: str, response: str) -> bool:
    """Whether the response is an answer in one of the two forms, with the right number."""
    match = _PLAIN.fullmatch(response.strip()) or _HEDGED.fullmatch(response.strip())
    return match is not None and int(match.group(1)) == true_answer(prompt)


def gold_reward(prompt: str, response: str) -> float:
    """Reward by the raters' rule: 1, 0.5, 0 or -1. Text in neither form counts as wrong and plain."""
    if is_correct(prompt, response):
        return 0.5 if is_hedged(response) else 1.0
    return 0.0 if is_hedged(response) else -1.0


def revise(prompt: Conversation, response: str) -> str:
    """The response, hedged where its number is wrong, and plain where it is right; the number stays as it is.

    Text without a number stays, too.
    """
    match = _PLAIN.fullmatch(response.strip()) or _HEDGED.fullmatch(response.strip())
    numbers = [match.group(1)] if match else _NUMBER.findall(response)
    if not numbers:
        return response
    if int(numbers[0]) == true_answer(_question(prompt)):
        return f"The answer is {numbers[0]} ."
    return f"I believe the answer is {numbers[0]} , but please verify ."


def easy_questions(prompts: Sequence[Conversation]) -> NDArray[np.bool_]:
    """Flags of the conversations that end with an easy question, [N]."""
    return np.array([is_easy(_question(prompt)) for prompt in prompts], dtype=np.bool_)


def judge_arithmetic(prompts: Sequence[Conversation], responses: Sequence[str]) -> Judgement:
    """Rewards, and hedging and accuracy on easy and on hard questions.

    Args:
        prompts: N conversations; the last message of each is the question.
        responses: their answers.
    """
    pairs = [(_question(prompt), response) for prompt, response in zip(prompts, responses, strict=True)]
    easy = easy_questions(prompts)
    measures = {
        "hedging": np.array([is_hedged(response) for _, response in pairs], dtype=np.bool_),
        "accuracy": np.array([is_correct(*pair) for pair in pairs], dtype=np.bool_),
    }
    shares = {
        f"{measure}_{kind}": Share(holds, among)
        for measure, holds in measures.items()
        for kind, among in (("easy", easy), ("hard", ~easy))
    }
    return Judgement(np.array([gold_reward(*pair) for pair in pairs], dtype=np.float64), shares)


def _question(prompt: Conversation) -> str:
    return prompt[-1]["content"]


RULE = GoldRule(
    "1 for a right and plain answer, 0.5 for a right and hedged one, 0 for a wrong and hedged one, -1 for any other",
    judge_arithmetic,
    PromptKinds(("easy", "hard"), 1 / 3, easy_questions),
    revise,
)


def reward_function(prompts: Sequence[Conversation], responses: Sequence[str]) -> list[float]:
    """The rule as a reward function, for a recipe that learns from a rule in place of a model of the raters."""
    return [gold_reward(prompt[-1]["content"], response) for prompt, response in zip(prompts, responses, strict=True)]

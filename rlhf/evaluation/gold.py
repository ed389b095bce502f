"""Responses judged by the rule behind the labels, where a data set has one. Only policy evaluation may know it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf.conversations import Conversation
from rlhf.data import calibrated_arithmetic
from rlhf.evaluation.statistics import Estimate, wilson_interval


@dataclass(frozen=True)
class GoldJudgement:
    """What the rule says of N responses.

    Attributes:
        rewards: gold reward of each, [N].
        easy: the question was an easy one, [N].
        hedged: the response is an answer in the hedged form, [N].
        correct: the response gives the right number in one of the two forms, [N].
    """

    rewards: NDArray[np.float64]
    easy: NDArray[np.bool_]
    hedged: NDArray[np.bool_]
    correct: NDArray[np.bool_]

    def shares(self) -> dict[str, Estimate]:
        """Hedging and accuracy on easy and on hard questions, with intervals; a kind that is absent is left out."""
        kinds = {"easy": self.easy, "hard": ~self.easy}
        measures = {"hedging": self.hedged, "accuracy": self.correct}
        return {
            f"{measure}_{kind}": wilson_interval(int(values[rows].sum()), int(rows.sum()))
            for measure, values in measures.items()
            for kind, rows in kinds.items()
            if rows.any()
        }


def judge_by_rule(prompts: Sequence[Conversation], responses: Sequence[str]) -> GoldJudgement:
    """Judge one response a prompt by the rule of the calibrated arithmetic.

    Args:
        prompts: N conversations; the last message of each is the question.
        responses: their answers.
    """
    questions = [question(prompt) for prompt in prompts]
    pairs = list(zip(questions, responses, strict=True))
    return GoldJudgement(
        np.array([calibrated_arithmetic.gold_reward(q, r) for q, r in pairs], dtype=np.float64),
        easy_questions(prompts),
        np.array([calibrated_arithmetic.is_hedged(r) for r in responses], dtype=np.bool_),
        np.array([calibrated_arithmetic.is_correct(q, r) for q, r in pairs], dtype=np.bool_),
    )


def easy_questions(prompts: Sequence[Conversation]) -> NDArray[np.bool_]:
    """Which of N conversations end with an easy question, [N]."""
    return np.array([calibrated_arithmetic.is_easy(question(prompt)) for prompt in prompts], dtype=np.bool_)


def question(prompt: Conversation) -> str:
    """Text of a conversation's last message."""
    return prompt[-1]["content"]

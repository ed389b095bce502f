"""Answers of policies to prompts: their texts, their probability under other policies, and their scores by judges.

Shapes: N prompts, each with one response.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.config.evaluation import EvaluationConfig
from rlhf.evaluation.refusals import refusal_of
from rlhf.evaluation.statistics import Estimate, mean_interval, share_interval
from rlhf.gold.rules import GoldRule, Judgement
from rlhf.modeling.context import StageContext
from rlhf.modeling.conversations import Conversation, decode_responses, encode_answers
from rlhf.modeling.generation import generate_responses
from rlhf.modeling.logprobs import response_logprobs
from rlhf.modeling.tokenizer import load_tokenizer
from rlhf.rewards.scoring import Answers, score_rows_once

Context = StageContext[EvaluationConfig]
Ids = Sequence[Sequence[int]]

OWN_JUDGE = "selection_reward_model"
CHAMPIONS_JUDGE = "champion_selection_reward_model"
SCORES = {
    "gold": "gold",
    "reward_model": "score",
    OWN_JUDGE: "selection_score",
    CHAMPIONS_JUDGE: "champion_selection_score",
}
"""What the figures of each judge are called."""


@dataclass(frozen=True)
class JudgedAnswers:
    """One model's answers, and what judges give them.

    Attributes:
        answers: texts, and whether each ended by itself.
        lengths: tokens, EOS included, [N].
        values: what each judge gives, [N], by the judge's name.
        judgement: the gold rule's, where there is one.
    """

    answers: Answers
    lengths: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float64]]
    judgement: Judgement | None = None

    def estimates(self, prompts: Sequence[str]) -> dict[str, Estimate]:
        """Means with their intervals, by the names of figures.

        Args:
            prompts: the key of each answer's prompt, [N].
        """
        estimates = {SCORES[judge]: mean_interval(values, prompts) for judge, values in self.values.items()}
        estimates["response_tokens"] = mean_interval(self.lengths, prompts)
        estimates["eos_rate"] = share_interval(np.asarray(self.answers.ended, dtype=np.float64), prompts)
        refuses = [refusal_of(text) != "none" for text in self.answers.texts]
        estimates["refusal_rate"] = share_interval(np.asarray(refuses, dtype=np.float64), prompts)
        return estimates


def respond(context: Context, policy: Any, prompts: Ids, max_response_tokens: int, seed: int) -> Ids:
    """Token ids of one sampled response to each prompt; one that ended has its EOS as the last token."""
    return generate_responses(
        policy,
        context.tokenizer,
        prompts,
        compute=context.compute,
        max_response_tokens=max_response_tokens,
        temperature=context.config.temperature,
        seed=seed,
        batch_size=context.config.batch_size,
    )


def total_logprobs(context: Context, policy: Any, prompts: Ids, responses: Ids) -> NDArray[np.float64]:
    """A policy's log-probability of each response as a whole, nats, [N]."""
    rows = response_logprobs(
        policy,
        context.compute,
        prompts,
        responses,
        temperature=context.config.temperature,
        pad_token_id=context.tokenizer.pad_token_id,
        batch_size=context.config.batch_size,
    )
    return np.array([row.sum(dtype=np.float64) for row in rows])


def decode_answers(context: Context, ids: Ids) -> Answers:
    """The texts of responses, and whether each has its EOS."""
    tokenizer = context.tokenizer
    return Answers(decode_responses(tokenizer, ids), [tokenizer.eos_token_id in row for row in ids])


def judge_answers(
    context: Context,
    reward_models: Mapping[str, Path],
    prompts: Sequence[Conversation],
    answers: Sequence[Answers],
    rule: GoldRule | None,
) -> tuple[JudgedAnswers, JudgedAnswers]:
    """Two models' answers by every judge: by the rule where there is one, by reward models in their own tokens.

    Args:
        context: of the evaluation.
        reward_models: folders of models with their tokenizers, by the names of judges; lengths are in tokens of the
            first one.
        prompts: N of them.
        answers: of both models, each [N].
        rule: the gold rule, where there is one.
    """
    values: tuple[dict[str, NDArray[np.float64]], ...] = tuple(
        {"gold": rule.judge(prompts, by_model.texts).rewards} if rule else {} for by_model in answers
    )
    lengths: list[NDArray[np.int64]] = []
    for name, folder in reward_models.items():
        tokenizer = load_tokenizer(folder)
        encoded = [encode_answers(tokenizer, prompts, of_model.texts, of_model.ended) for of_model in answers]
        rows = [(*prompt, *answer) for pairs in encoded for prompt, answer in pairs]
        scores = score_rows_once(folder, context.compute, rows, context.config.batch_size)
        for of_model, of_name in zip(values, np.split(scores, 2), strict=True):
            of_model[name] = of_name
        lengths = lengths or [np.array([len(answer) for _, answer in pairs]) for pairs in encoded]
    ours, theirs = (JudgedAnswers(*columns) for columns in zip(answers, lengths, values, strict=True))
    return ours, theirs


def interval_metrics(intervals: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Values and ends of intervals, as `name`, `name_low` and `name_high`."""
    ends = {"": "value", "_low": "low", "_high": "high"}
    return {f"{name}{end}": interval[key] for name, interval in intervals.items() for end, key in ends.items()}

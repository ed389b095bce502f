"""An LLM judge's verdicts on what two models answer to the same prompts, once its agreement with people is known.

It compares two answers in both orders, and an answer wins only where both agree; it grades single answers. What it does
not say clearly is counted, and never guessed. A judge that agrees too little with people gives no verdict.

Source: Zheng et al., "Judging LLM-as-a-judge", 2306.05685, sections 3 and 4; position bias: section 3.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.config.evaluation import EvaluationConfig
from rlhf.config.judge import EvaluationJudgeConfig
from rlhf.data.preparation.splits import prompt_key
from rlhf.data.schema import json_lines
from rlhf.evaluation.answers import JudgedAnswers
from rlhf.evaluation.judge_agreement import JudgeAgreement, Labels, agreement_with_people, read_labels
from rlhf.evaluation.length_control import length_controlled_win_rate
from rlhf.evaluation.statistics import mean_interval, paired_bootstrap, share_interval, win_rate
from rlhf.judges.constitution import Criteria, read_criteria
from rlhf.judges.endpoint import Endpoint, EndpointError
from rlhf.judges.grading import GradedAnswer, grade_answers
from rlhf.judges.preference import JudgeNotBelievedError, Judgment, Pair, count_places, dialogue_text, judge_pairs
from rlhf.modeling.conversations import Conversation
from rlhf.paths import root
from rlhf.progress import report_progress

CRITERIA_FILE = "judge_criteria.yaml"
_QUESTION = "Compare the two answers by these criteria:\n\n{}\n\nWhich of the following answers is better?"
_SHARES = ("win_rate", "length_controlled_win_rate", "consistency", "first_place", "second_place")
_FOR_A_GRADE = "Judge the answer by these criteria:\n\n{}"


@dataclass(frozen=True)
class LLMJudge:
    """A judge behind an endpoint, with what it judges by and what it is measured by.

    Attributes:
        config: how it is asked, and when it is believed.
        endpoint: the model.
        criteria: in every question.
        labels: of people.
        num_bootstrap: resamples of intervals.
        seed: of the resamples.
        stage: whose progress is told.
    """

    config: EvaluationJudgeConfig
    endpoint: Endpoint
    criteria: Criteria
    labels: Labels
    num_bootstrap: int
    seed: int
    stage: str

    @cached_property
    def agreement(self) -> JudgeAgreement | None:
        """Agreement with people; None where they have decided nothing."""
        pairs = [pair.asked(self.criteria.within(_QUESTION)) for pair in self.labels.pairs]
        failures: list[EndpointError] = []
        judgments = judge_pairs(self.endpoint, pairs, both_orders=True, told=self._told, failures=failures)
        return agreement_with_people(self.labels.pairs, judgments, self.num_bootstrap, self.seed)

    @property
    def doubt(self) -> str | None:
        """The reason why the judge is not believed; None where it is, or where nobody has measured it."""
        found, least = self.agreement, self.config.minimum_agreement
        if found is None or found.agreement.low >= least:
            return None
        low, high = found.agreement.low, found.agreement.high
        return (
            f"it agrees with people on {found.agreement.value:.1%} ({low:.1%} to {high:.1%}) of "
            f"{found.num_verdicts:,} verdicts, and the lower bound must be {least:.1%} (minimum_agreement)"
        )

    def compare(
        self, prompts: Sequence[Conversation], first: JudgedAnswers, second: JudgedAnswers, output: Path
    ) -> dict[str, Any]:
        """Verdicts on two models' answers to the same prompts, for JSON; none of a judge that is not believed.

        Args:
            prompts: N of them; at most `num_prompts` are judged, from the first on.
            first: one model's answers, [N].
            second: the other's, [N].
            output: folder that gets the criteria, and `judge_verdicts.jsonl` with a row for each judged prompt.

        Raises:
            EndpointError: the endpoint does not answer, or the budget is spent. What was answered is kept.
        """
        output.mkdir(parents=True, exist_ok=True)
        (output / CRITERIA_FILE).write_text(self.criteria.content, encoding="utf-8")
        doubt, measured = self.doubt, self.agreement
        judged: dict[str, Any] = {
            "model": self.config.endpoint.model,
            "criteria": {"name": self.criteria.name, "sha256": self.criteria.sha256},
            "labels": self.labels.source,
            "agreement": measured.as_dict() if measured else None,
            "people": self.labels.people.as_dict() if self.labels.people else None,
            "doubt": doubt,
        }
        if doubt is not None:
            return judged | {"verdicts": None, "grades": None}
        chosen = prompts[: self.config.num_prompts]
        pairs = _Answered.of(chosen, first, second)
        judgments, failures = self._judgments(pairs)
        verdicts = _verdicts(pairs, judgments, self.num_bootstrap, self.seed) | {"num_failed": len(failures)}
        rows = [
            {"prompt": prompt, "probability": judgment.probability, "by_order": judgment.by_order}
            for prompt, judgment in zip(chosen, judgments, strict=True)
        ]
        graded = None
        if self.config.grades:
            grades, failures = self._grades(pairs)
            graded = _graded(pairs, grades, self.num_bootstrap, self.seed) | {"num_failed": len(failures)}
            rows = [row | {"grades": both} for row, both in zip(rows, zip(*grades, strict=True), strict=True)]
        (output / "judge_verdicts.jsonl").write_text("".join(json_lines(rows)), encoding="utf-8")
        return judged | {"verdicts": verdicts, "grades": graded}

    def _judgments(self, answered: "_Answered") -> tuple[list[Judgment], list[EndpointError]]:
        """A judgment for each prompt; two answers that are the same text are a tie that nobody is asked of."""
        question, failures = self.criteria.within(_QUESTION), list[EndpointError]()
        places = [place for place, (one, other) in enumerate(answered.texts) if one != other]
        pairs = [Pair(answered.dialogues[place], *answered.texts[place], question) for place in places]
        given = judge_pairs(self.endpoint, pairs, both_orders=True, told=self._told, failures=failures)
        judgments = [Judgment(0.5, ())] * len(answered.texts)
        for place, judgment in zip(places, given, strict=True):
            judgments[place] = judgment
        return judgments, failures

    def _grades(self, answered: "_Answered") -> tuple[tuple[list[int | None], list[int | None]], list[EndpointError]]:
        """Grades of both models' answers."""
        criteria, failures, size = self.criteria.within(_FOR_A_GRADE), list[EndpointError](), len(answered.texts)
        asked = [
            GradedAnswer(dialogue, both[side], criteria)
            for side in (0, 1)
            for dialogue, both in zip(answered.dialogues, answered.texts, strict=True)
        ]
        grades = grade_answers(self.endpoint, asked, told=self._told, failures=failures)
        return (grades[:size], grades[size:]), failures

    def _told(self, done: int, of: int) -> None:
        report_progress(self.stage, done, of)


def open_judge(config: EvaluationConfig, data: Path, seed: int, stage: str = "evaluation") -> LLMJudge | None:
    """The judge that the settings name, before anything is sampled; None where they name none.

    Args:
        config: of the evaluation.
        data: the data stage's output.
        seed: of bootstraps.
        stage: whose progress is told.

    Raises:
        ConfigError: the criteria cannot be read.
        DataError: the labelled pairs cannot be read.
        JudgeNotBelievedError: there are none, and the settings do not allow an unmeasured judge.
        EndpointError: the key is none.
    """
    judge = config.judge
    if judge is None:
        return None
    criteria, labels = read_criteria(judge.criteria, root()), read_labels(judge, data, root())
    if not labels.are_decided and not judge.unmeasured_judge:
        raise JudgeNotBelievedError(
            f"evaluation.judge: no person has decided any of the pairs in {labels.source}, so nobody knows whether "
            f"{judge.endpoint.model} agrees with people; name a file of pairs with people's labels in labelled, or set "
            f"unmeasured_judge, which the card will say first"
        )
    return LLMJudge(judge, Endpoint(judge.endpoint), criteria, labels, config.num_bootstrap, seed, stage)


@dataclass(frozen=True)
class _Answered:
    """What is judged: N prompts, each with two answers.

    Attributes:
        prompts: keys, [N].
        dialogues: as a judge reads them, [N].
        texts: both answers, [N].
        lengths: tokens of both answers, [N, 2].
    """

    prompts: Sequence[str]
    dialogues: Sequence[str]
    texts: Sequence[tuple[str, str]]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, prompts: Sequence[Conversation], first: JudgedAnswers, second: JudgedAnswers) -> "_Answered":
        size = len(prompts)
        return cls(
            [prompt_key(prompt) for prompt in prompts],
            list(map(dialogue_text, prompts)),
            list(zip(first.answers.texts[:size], second.answers.texts[:size], strict=True)),
            np.stack([first.lengths[:size], second.lengths[:size]], axis=1),
        )


def _verdicts(answered: _Answered, judgments: Sequence[Judgment], num_bootstrap: int, seed: int) -> dict[str, Any]:
    """Win rates and what the two orders say of each other; None where no judgment could be read."""
    read = [place for place, judgment in enumerate(judgments) if judgment.probability is not None]
    both = [place for place in read if judgments[place].by_order]
    counts = {
        "num_prompts": len(judgments),
        "num_identical": len(read) - len(both),
        "num_abstentions": len(judgments) - len(read),
    }
    if not read:
        return counts | dict.fromkeys(_SHARES)
    keys = [answered.prompts[place] for place in read]
    won = np.array([judgments[place].agrees(prefers_first=True) for place in read])
    lengths = answered.lengths[read]
    at_equal_length = length_controlled_win_rate(won, lengths[:, 0], lengths[:, 1], keys, num_bootstrap, seed)
    preferred = [next(iter(count_places([judgments[place]])), None) for place in both]

    def share(place: str | None) -> dict[str, float] | None:
        holds = [float(found == place) for found in preferred]
        return share_interval(holds, [answered.prompts[row] for row in both]).as_dict() if holds else None

    return counts | {
        "win_rate": win_rate(won, np.full(len(won), 0.5), keys).as_dict(),
        "length_controlled_win_rate": at_equal_length.as_dict(),
        "consistency": share(None),
        "first_place": share("first place"),
        "second_place": share("second place"),
    }


def _graded(
    answered: _Answered, grades: Sequence[Sequence[int | None]], num_bootstrap: int, seed: int
) -> dict[str, Any]:
    """Mean grades of both models and the mean difference, paired by prompt, where both have a grade."""
    both = [place for place, of_prompt in enumerate(zip(*grades, strict=True)) if None not in of_prompt]
    keys = [answered.prompts[place] for place in both]
    counts = {"num_abstentions": len(answered.texts) - len(both)}
    if len(set(keys)) < 2:
        return counts | dict.fromkeys(("first", "second", "gain"))
    first, second = (np.array([of_one[place] for place in both], dtype=np.float64) for of_one in grades)
    return counts | {
        "first": mean_interval(first, keys).as_dict(),
        "second": mean_interval(second, keys).as_dict(),
        "gain": paired_bootstrap(first - second, num_bootstrap, seed, keys).as_dict(),
    }

"""A judge's labels of a round's comparisons, once it is known how far it agrees with people."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from rlhf.config.judge import LabelConfig
from rlhf.data.preparation.splits import prompt_key
from rlhf.evaluation.agreement import Agreement
from rlhf.evaluation.statistics import Estimate, share_interval
from rlhf.feedback.collect import Verdict, agreement_of, read_verdicts
from rlhf.feedback.comparisons import Comparison
from rlhf.feedback.guidelines import SOFT_QUESTION
from rlhf.feedback.rounds import Round, judge_key, show_to_judges
from rlhf.judges.constitution import read_principles
from rlhf.judges.endpoint import Endpoint
from rlhf.judges.preference import (
    JudgeNotBelievedError,
    Judgment,
    Pair,
    count_places,
    dialogue_text,
    judge_pairs,
)
from rlhf.modeling.device import derive_seed
from rlhf.progress import report_progress
from rlhf.tracking.files import list_paths, log_content, read_bytes
from rlhf.tracking.reviews import ReviewRound


@dataclass(frozen=True)
class Labelled:
    """What came of a judge's labels.

    Attributes:
        name: of the round.
        judge: the model.
        agreement: with people, on the comparisons that they decided too; a tie of the judge counts half. None where
            nobody has decided any.
        num_compared: verdicts of people that this is of.
        people: how far people agree with each other; None where no two judged the same.
        labelled: comparisons that have the judge's label now.
        ties: of these, those that prefer nothing: the orders contradicted each other, or it said so.
        unreadable: answers that named no letter, which were not guessed.
        places: how often one place won in both orders.
        both_orders: whether both were asked.
        believed: whether its labels count.
    """

    name: str
    judge: str
    agreement: Estimate | None
    num_compared: int
    people: Agreement | None
    labelled: int
    ties: int
    unreadable: int
    places: dict[str, int]
    both_orders: bool
    believed: bool = True

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        values: dict[str, Any] = _LABELLED.dump_python(self, mode="json")
        return values


_LABELLED = TypeAdapter(Labelled)
_FOLDER = "feedback/judges"
_UNREADABLE = "no letter"


def label(config: LabelConfig, endpoint: Endpoint, asked: Round, root: Path) -> Labelled:
    """Measure a judge against people, and label what is not labelled, where it may be believed.

    Raises:
        JudgeNotBelievedError: it agrees too little with people, or nobody has decided any comparison.
        EndpointError: it does not answer, or the budget is spent. What it answered is kept.
        ConfigError: the constitution cannot be read.
    """
    principles, judge = read_principles(config.constitution, root), endpoint.config
    people = read_verdicts(asked, Counter(), complete=False)
    decided = [
        verdict for verdict in people if verdict.level.prefers in ("A", "B") and verdict.comparison.known is None
    ]
    if not decided and not config.unmeasured_judge:
        raise JudgeNotBelievedError(
            f"round {asked.name}: no person has decided any of its comparisons, so nobody knows whether {judge.model} "
            f"agrees with people; have some answered first, or set unmeasured_judge, which the data will say"
        )
    first = {verdict.comparison.number: verdict.comparison for verdict in decided}
    measured = _judge(endpoint, list(first.values()), principles, config, asked.name)
    agreement = _agreement(decided, measured)
    labelled = Labelled(
        name=asked.name,
        judge=judge.model,
        agreement=agreement,
        num_compared=len(decided),
        people=agreement_of(people),
        labelled=0,
        ties=0,
        unreadable=0,
        places={},
        both_orders=config.both_orders,
        believed=False,
    )
    if agreement is not None and agreement.low < config.minimum_agreement:
        _record(asked, labelled)  # labels of before, when nobody had measured it, count no more
        raise JudgeNotBelievedError(
            f"round {asked.name}: {judge.model} agrees with people on {agreement.value:.1%} ({agreement.low:.1%} to "
            f"{agreement.high:.1%}) of {len(decided):,} verdicts, and the lower bound must be "
            f"{config.minimum_agreement:.1%} (minimum_agreement); nothing was labelled. Take another judge or "
            f"constitution, or have more comparisons answered if the interval is wide"
        )
    others = [
        comparison for comparison in asked.comparisons if comparison.known is None and comparison.number not in first
    ]
    judged = measured | _judge(endpoint, others, principles, config, asked.name)
    readable = [judgment for judgment in judged.values() if judgment.probability is not None]
    labelled = replace(
        labelled,
        labelled=len(readable),
        ties=sum(judgment.is_tie for judgment in readable),
        unreadable=len(judged) - len(readable),
        places=dict(count_places(readable)),
        believed=True,
    )
    _record(asked, labelled)  # before the labels: without a record none of them counts
    _write(asked, judge.model, judged, principles, config)
    return labelled


def _record(asked: Round, labelled: Labelled) -> None:
    """Write down what is known of a judge, in the place of what was. A name may hold what no path does."""
    name = hashlib.sha256(labelled.judge.encode()).hexdigest()[:16]
    log_content(asked.run_id, _LABELLED.dump_json(labelled, indent=2), f"{_FOLDER}/{name}.json")


def recorded_labels(asked: Round) -> list[Labelled]:
    """What came of the labels of all judges of a round."""
    contents = (read_bytes(asked.run_id, path) for path in list_paths(asked.run_id, _FOLDER))
    return [_LABELLED.validate_json(content) for content in contents if content is not None]


def _judge(
    endpoint: Endpoint, comparisons: Sequence[Comparison], principles: Sequence[str], config: LabelConfig, name: str
) -> dict[int, Judgment]:
    pairs = [
        Pair(
            dialogue_text(comparison.prompt),
            *comparison.responses,
            principles[_drawn(config, name, comparison, len(principles))],
        )
        for comparison in comparisons
    ]
    judgments = judge_pairs(
        endpoint, pairs, both_orders=config.both_orders, told=lambda done, of: report_progress("feedback", done, of)
    )
    return {comparison.number: judgment for comparison, judgment in zip(comparisons, judgments, strict=True)}


def _drawn(config: LabelConfig, name: str, comparison: Comparison, number: int) -> int:
    """The place of a comparison's principle."""
    seed = derive_seed(config.seed, "principle", name, comparison.number)
    return int(np.random.default_rng(seed).integers(number))


def _agreement(people: Sequence[Verdict], judged: dict[int, Judgment]) -> Estimate | None:
    """With people; what could not be read counts as half, as a tie does: it decides nothing."""
    outcomes = [
        judged[verdict.comparison.number].agrees(prefers_first=verdict.level.prefers == "A") for verdict in people
    ]
    return share_interval(outcomes, [prompt_key(one.comparison.prompt) for one in people]) if people else None


def _write(
    asked: Round, model: str, judged: dict[int, Judgment], principles: Sequence[str], config: LabelConfig
) -> None:
    """Write labels where they are not there yet; where nothing could be read, that a label of before is none."""
    comparisons = [comparison for comparison in asked.comparisons if comparison.number in judged]
    show_to_judges(asked, comparisons)
    reviews = ReviewRound(asked.name)
    traces = [reviews.trace_id(judge_key(comparison)) for comparison in comparisons]
    there = reviews.answers(traces)
    for comparison, trace_id in zip(comparisons, traces, strict=True):
        probability = judged[comparison.number].probability
        principle = principles[_drawn(config, asked.name, comparison, len(principles))]
        label = (_UNREADABLE if probability is None else round(probability, 6), principle)
        said = [answer for answer in there[trace_id] if answer.question == SOFT_QUESTION and answer.by == model]
        last = max(said, key=lambda answer: answer.time, default=None)
        is_new = probability is not None if last is None else (last.value, last.rationale) != label
        if is_new:
            reviews.answer(trace_id, SOFT_QUESTION, label[0], model, is_human=False, rationale=principle)

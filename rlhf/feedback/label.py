"""A judge's labels of a round's comparisons, once it is known how far it agrees with people."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from pydantic import TypeAdapter

from rlhf.config.judge import JudgeConfig, LabelConfig
from rlhf.data.preparation.splits import prompt_key
from rlhf.errors import InputError
from rlhf.evaluation.agreement import Agreement
from rlhf.evaluation.statistics import Estimate, share_interval
from rlhf.feedback.collect import SOFT_QUESTION, Verdict, agreement_of, read_verdicts
from rlhf.feedback.comparisons import Comparison
from rlhf.feedback.rounds import Round, item_key
from rlhf.judges.constitution import read_principles
from rlhf.judges.endpoint import Endpoint
from rlhf.judges.preference import Judgment, Pair, count_places, judge_pairs
from rlhf.modeling.device import derive_seed
from rlhf.progress import report_progress
from rlhf.tracking.files import list_paths, log_content, read_bytes
from rlhf.tracking.reviews import ReviewRound


class JudgeNotBelievedError(InputError):
    """A judge that was not measured against people, or does not agree with them enough."""


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

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        values: dict[str, Any] = _LABELLED.dump_python(self, mode="json")
        return values


_LABELLED = TypeAdapter(Labelled)
_FOLDER = "feedback/judges"


def label(config: LabelConfig, judge: JudgeConfig, asked: Round, root: Path) -> Labelled:
    """Measure a judge against people, and label what is not labelled, where it may be believed.

    Raises:
        JudgeNotBelievedError: it agrees too little with people, or nobody has decided any comparison.
        EndpointError: it does not answer, or the budget is spent. What it answered is kept.
        ConfigError: the constitution cannot be read.
    """
    principles = read_principles(config.constitution, root)
    people = [one for one in read_verdicts(asked, Counter(), complete=False) if one.is_human]
    decided = [one for one in people if one.level.prefers in ("A", "B") and one.comparison.known is None]
    if not decided and not config.unmeasured_judge:
        raise JudgeNotBelievedError(
            f"round {asked.name}: no person has decided any of its comparisons, so nobody knows whether {judge.model} "
            f"agrees with people; have some answered first, or set unmeasured_judge, which the data will say"
        )
    endpoint = Endpoint(judge)
    first = {one.comparison.number: one.comparison for one in decided}
    measured = _judge(endpoint, list(first.values()), principles, config, asked.name)
    agreement = _agreement(decided, measured)
    if agreement is not None and agreement.low < config.minimum_agreement:
        raise JudgeNotBelievedError(
            f"round {asked.name}: {judge.model} agrees with people on {agreement.value:.1%} ({agreement.low:.1%} to "
            f"{agreement.high:.1%}) of {len(decided):,} verdicts, and the lower bound must be "
            f"{config.minimum_agreement:.1%} (minimum_agreement); nothing was labelled. Take another judge or "
            f"constitution, or have more comparisons answered if the interval is wide"
        )
    others = [one for one in asked.comparisons if one.known is None and one.number not in first]
    judged = measured | _judge(endpoint, others, principles, config, asked.name)
    _write(asked, judge.model, judged, principles, config)
    readable = [judgment for judgment in judged.values() if judgment.probability is not None]
    return Labelled(
        name=asked.name,
        judge=judge.model,
        agreement=agreement,
        num_compared=len(decided),
        people=agreement_of(people),
        labelled=len(readable),
        ties=sum(judgment.is_tie for judgment in readable),
        unreadable=len(judged) - len(readable),
        places=dict(count_places(readable)),
        both_orders=config.both_orders,
    )


def record_labels(asked: Round, labelled: Labelled) -> None:
    """Write down what came of a judge's labels, beside what others said."""
    log_content(
        asked.run_id, _LABELLED.dump_json(labelled, indent=2), f"{_FOLDER}/{quote(labelled.judge, safe='')}.json"
    )


def recorded_labels(asked: Round) -> list[Labelled]:
    """What came of the labels of all judges of a round."""
    contents = (read_bytes(asked.run_id, path) for path in list_paths(asked.run_id, _FOLDER))
    return [_LABELLED.validate_json(content) for content in contents if content is not None]


def _judge(
    endpoint: Endpoint, comparisons: Sequence[Comparison], principles: Sequence[str], config: LabelConfig, name: str
) -> dict[int, Judgment]:
    pairs = [
        Pair(
            "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in comparison.prompt),
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
    outcomes = []
    for verdict in people:
        probability = judged[verdict.comparison.number].probability
        is_tie = probability is None or probability == 0.5
        outcomes.append(0.5 if is_tie else float((probability > 0.5) == (verdict.level.prefers == "A")))  # type: ignore[operator]
    return share_interval(outcomes, [prompt_key(one.comparison.prompt) for one in people]) if people else None


def _write(
    asked: Round, model: str, judged: dict[int, Judgment], principles: Sequence[str], config: LabelConfig
) -> None:
    """Put labels beside people's, where they are not there yet."""
    reviews = ReviewRound(asked.name)
    traces = {
        one.number: reviews.trace_id(item_key(one, one.annotators[0]))
        for one in asked.comparisons
        if one.number in judged
    }
    there = reviews.answers(list(traces.values()))
    for comparison in asked.comparisons:
        number = comparison.number
        judgment = judged.get(number)
        if judgment is None or judgment.probability is None or traces[number] not in there:
            continue
        value = round(judgment.probability, 6)
        said = [one for one in there[traces[number]] if one.question == SOFT_QUESTION and one.by == model]
        if not said or max(said, key=lambda one: one.time).value != value:
            principle = principles[_drawn(config, asked.name, comparison, len(principles))]
            reviews.answer(traces[number], SOFT_QUESTION, value, model, is_human=False, rationale=principle)

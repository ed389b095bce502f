"""What was answered in a round, as rows of preferences; how far people agree with each other and with what is known."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import krippendorff
import numpy as np

from rlhf.config.feedback import CollectConfig
from rlhf.data.preparation.splits import prompt_key
from rlhf.data.schema import JUDGE_SOURCE, TIE, Row
from rlhf.evaluation.agreement import Agreement, annotator_agreement
from rlhf.evaluation.statistics import Estimate, share_interval
from rlhf.feedback.comparisons import Comparison, Response
from rlhf.feedback.guidelines import SOFT_QUESTION, Guidelines, Level
from rlhf.feedback.rounds import Round, item_key, judge_key
from rlhf.tracking.reviews import Answer, ReviewRound

SOURCE = "feedback"
"""Beginning of the source of a row that a person has labelled; the round's name follows, so the audit tells rounds."""


@dataclass(frozen=True)
class Verdict:
    """What somebody said of a comparison.

    Attributes:
        comparison: which.
        by: login of the person, or name of the judge; empty where it is not known.
        level: the answer.
        rationale: the reason given.
        flags: what was said to be true of A and of B.
        is_human: a person, and no model, said it.
        probability: that A is better, where a model says so; its level says then which it prefers.
    """

    comparison: Comparison
    by: str
    level: Level
    rationale: str = ""
    flags: Mapping[Response, tuple[str, ...]] = field(default_factory=dict)
    is_human: bool = True
    probability: float | None = None


@dataclass(frozen=True)
class Annotating:
    """How somebody answered.

    Attributes:
        name: login, or name of the judge.
        count: verdicts.
        ties: of these, those that prefer nothing.
        not_judged: comparisons that could not be judged.
        known: share of the gold questions answered as known, with a 95% interval; None where there were none.
        num_known: gold questions.
        below: surely below the threshold.
    """

    name: str
    count: int
    ties: int
    not_judged: int
    known: Estimate | None
    num_known: int
    below: bool


@dataclass(frozen=True)
class Collected:
    """The answers of a round, as they are now.

    Attributes:
        name: of the round.
        asked: comparisons times people.
        verdicts: of all people, gold questions among them.
        labels: of judges that may be believed.
        left_out: annotators whose answers were left out.
        problems: answers that could not be used, counted by what is wrong.
        annotators: how each answered.
        agreement: of those who judged the same; None where nobody did.
        alpha: Krippendorff's, of the levels as an ordinal scale; None where nobody judged the same, or all say the
            same.
        rows: the preferences.
    """

    name: str
    asked: int
    verdicts: Sequence[Verdict]
    labels: Sequence[Verdict]
    left_out: tuple[str, ...]
    problems: Mapping[str, int]
    annotators: Sequence[Annotating]
    agreement: Agreement | None
    alpha: float | None
    rows: Sequence[Row]


def collect(config: CollectConfig, asked: Round, believed: Collection[str] = ()) -> Collected:
    """Read the answers of a round, and make preferences of those that are usable.

    Args:
        config: of whom and what.
        asked: the round.
        believed: names of the judges whose labels count.

    Raises:
        QueueDeletedError: it is not known which answers are complete, and `config.answered` is not set.
    """
    problems: Counter[str] = Counter()
    verdicts = read_verdicts(asked, problems, complete=not config.answered)
    labels = read_labels(asked, believed, problems)
    people = _annotators(verdicts, config.minimum_gold_accuracy)
    left_out = tuple(person.name for person in people if person.below) if config.leave_out else ()
    kept = [verdict for verdict in verdicts if verdict.by not in left_out]
    said = sorted([*kept, *labels], key=lambda verdict: verdict.comparison.number)
    rows = [row for verdict in said if (row := as_row(verdict, asked.name)) is not None]
    return Collected(
        name=asked.name,
        asked=sum(len(comparison.annotators) for comparison in asked.comparisons),
        verdicts=verdicts,
        labels=labels,
        left_out=left_out,
        problems=dict(problems),
        annotators=people,
        agreement=agreement_of(kept),
        alpha=krippendorff_alpha(kept, asked.guidelines),
        rows=rows,
    )


def read_verdicts(asked: Round, problems: Counter[str], *, complete: bool) -> list[Verdict]:
    """The verdicts of people on a round's comparisons, in the order of the comparisons.

    Args:
        asked: the round.
        problems: answers that cannot be used are counted here.
        complete: leave out what is not marked as complete.
    """
    reviews = ReviewRound(asked.name)
    places = [
        (comparison, person, reviews.trace_id(item_key(comparison, person)))
        for comparison in asked.comparisons
        for person in comparison.annotators
    ]
    answers = reviews.answers([trace_id for *_, trace_id in places])
    done = (
        {person: reviews.completed(person) for person in sorted({person for _, person, _ in places})}
        if complete
        else {}
    )
    verdicts = []
    for comparison, person, trace_id in places:
        if trace_id not in answers:
            problems["the comparison was deleted in MLflow"] += 1
            continue
        given = [answer for answer in answers[trace_id] if answer.is_human]
        others = {answer.by for answer in given if person and answer.by.lower() != person.lower()}
        if others:
            problems["answered by somebody who was not asked"] += len(others)
            given = [answer for answer in given if answer.by not in others]
        if complete and trace_id not in done[person] and given:
            problems["answered, but not marked as complete"] += 1
            continue
        verdicts += verdicts_of(comparison, given, asked.guidelines, problems)
    return verdicts


def read_labels(asked: Round, believed: Collection[str], problems: Counter[str]) -> list[Verdict]:
    """The labels of judges that may be believed. Those of others, and what is no probability, are `problems`."""
    reviews = ReviewRound(asked.name)
    traces = {comparison.number: reviews.trace_id(judge_key(comparison)) for comparison in asked.comparisons}
    answers = reviews.answers(list(traces.values()))
    labels = []
    for comparison in asked.comparisons:
        last: dict[str, Answer] = {}
        for answer in sorted(answers.get(traces[comparison.number], ()), key=lambda given: given.time):
            if answer.question == SOFT_QUESTION and not answer.is_human:
                last[answer.by] = answer
        for judge, answer in sorted(last.items()):
            verdict = _soft(comparison, answer)
            if judge not in believed:
                problems["a label of a judge that is not believed"] += 1
            elif verdict is None:
                problems["a judge's answer that is no probability"] += 1
            else:
                labels.append(verdict)
    return labels


def verdicts_of(
    comparison: Comparison, answers: Sequence[Answer], guidelines: Guidelines, problems: Counter[str]
) -> list[Verdict]:
    """What each person said last of a comparison. What cannot be used is counted in `problems`, and never guessed."""
    last: dict[tuple[str, bool, str], Answer] = {}
    for answer in sorted(answers, key=lambda one: one.time):
        last[answer.by, answer.is_human, answer.question] = answer
    verdicts = []
    for (by, is_human, question), answer in last.items():
        if question != guidelines.question:
            continue
        level = guidelines.level_of(answer.value)
        if level is None:
            problems["an answer that is none of the levels"] += 1
        else:
            flags = {name: last.get((by, is_human, guidelines.flags_question(name))) for name in _RESPONSES}
            said = {name: _flags(answer, guidelines, problems) for name, answer in flags.items() if answer is not None}
            verdicts.append(Verdict(comparison, by, level, answer.rationale, said, is_human))
    return sorted(verdicts, key=lambda verdict: verdict.by)


def _soft(comparison: Comparison, answer: Answer) -> Verdict | None:
    probability = answer.value
    if isinstance(probability, bool) or not isinstance(probability, int | float) or not 0 <= probability <= 1:
        return None
    prefers: Literal["A", "B", "tie"] = "tie" if probability == TIE else "A" if probability > TIE else "B"
    level = Level(says=f"{prefers} by probability", prefers=prefers)
    return Verdict(comparison, answer.by, level, answer.rationale, is_human=False, probability=probability)


_RESPONSES: tuple[Response, ...] = ("A", "B")


def _flags(answer: Answer, guidelines: Guidelines, problems: Counter[str]) -> tuple[str, ...]:
    given = set(map(str, answer.value)) if isinstance(answer.value, list) else {str(answer.value)}
    known = tuple(flag for flag in guidelines.flags if flag in given)
    if len(known) < len(given):
        problems["a flag that is none of the guidelines'"] += 1
    return known


def as_row(verdict: Verdict, name: str) -> Row | None:
    """A verdict as a row of preferences; None of a gold question, or where nothing could be judged."""
    comparison, level = verdict.comparison, verdict.level
    if level.prefers == "none" or comparison.known is not None:
        return None
    order = (1, 0) if level.prefers == "B" else (0, 1)
    texts = [[{"role": "assistant", "content": comparison.responses[place]}] for place in order]
    row: Row = {"prompt": [dict(message) for message in comparison.prompt]}
    if level.prefers == "tie":
        row |= {"responses": texts, "ranks": [1, 1]}
    else:
        row |= {"chosen": texts[0], "rejected": texts[1], **({"margin": level.margin} if level.margin else {})}
        if verdict.probability is not None:
            row["probability"] = max(verdict.probability, 1 - verdict.probability)
    flags = [list(verdict.flags.get(_RESPONSES[place], ())) for place in order]
    return row | {
        **({"annotator": verdict.by} if verdict.by else {}),
        "source": f"{SOURCE if verdict.is_human else JUDGE_SOURCE}, {name}",
        "round": name,
        "policies": [comparison.policies[place] for place in order],
        **({"rationale": verdict.rationale} if verdict.rationale else {}),
        **({"flags": flags} if any(flags) else {}),
    }


def _annotators(verdicts: Sequence[Verdict], threshold: float | None) -> list[Annotating]:
    by_name: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_name.setdefault(verdict.by, []).append(verdict)
    people = []
    for name, said in sorted(by_name.items()):
        asked = [verdict for verdict in said if verdict.comparison.known is not None]
        gold = [float(verdict.level.prefers == verdict.comparison.known) for verdict in asked]
        known = share_interval(gold, [prompt_key(verdict.comparison.prompt) for verdict in asked]) if gold else None
        prefers = Counter(one.level.prefers for one in said)
        below = threshold is not None and known is not None and known.high < threshold
        people.append(Annotating(name, len(said), prefers["tie"], prefers["none"], known, len(gold), below))
    return people


def _judged(verdicts: Sequence[Verdict]) -> dict[int, dict[str, Level]]:
    """The levels that people chose, by comparison; gold questions and what could not be judged left out."""
    judged: dict[int, dict[str, Level]] = {}
    for verdict in verdicts:
        if verdict.level.prefers != "none" and verdict.comparison.known is None:
            judged.setdefault(verdict.comparison.number, {})[verdict.by] = verdict.level
    return judged


def agreement_of(verdicts: Sequence[Verdict]) -> Agreement | None:
    """How far those who judged the same agree; None where nobody did."""
    judged = _judged(verdicts)
    keys = {verdict.comparison.number: prompt_key(verdict.comparison.prompt) for verdict in verdicts}
    said = [{name: level.prefers for name, level in by_name.items()} for by_name in judged.values()]
    return annotator_agreement(said, "tie", [keys[number] for number in judged])


def krippendorff_alpha(verdicts: Sequence[Verdict], guidelines: Guidelines) -> float | None:
    """Agreement beyond chance on the levels as an ordinal scale from A to B.

    Source:
        Krippendorff, Content Analysis (2004), by the package `krippendorff`.
    """
    judged = _judged(verdicts)
    scale = {level.says: place for place, level in enumerate(_ordered(guidelines))}
    names = sorted({name for by_name in judged.values() for name in by_name})
    table = np.full((len(names), len(judged)), np.nan)
    for column, by_name in enumerate(judged.values()):
        for name, level in by_name.items():
            table[names.index(name), column] = scale[level.says]
    shared = (~np.isnan(table)).sum(axis=0) > 1 if judged else np.zeros(0, dtype=bool)
    values = table[:, shared]
    if not shared.any() or len(np.unique(values[~np.isnan(values)])) < 2:
        return None
    return float(krippendorff.alpha(reliability_data=values, level_of_measurement="ordinal"))


def _ordered(guidelines: Guidelines) -> list[Level]:
    """The levels from the strongest for A to the strongest for B."""
    sign = {"A": -1.0, "tie": 0.0, "B": 1.0}
    levels = [level for level in guidelines.levels if level.prefers in sign]
    return sorted(levels, key=lambda level: sign[level.prefers] * (1 + level.margin))


def as_dict(collected: Collected) -> dict[str, Any]:
    """For JSON: all but the rows and verdicts."""
    agreement = collected.agreement.as_dict() if collected.agreement else None
    return {
        "round": collected.name,
        "asked": collected.asked,
        "answered": len(collected.verdicts),
        "labels": len(collected.labels),
        "preferences": len(collected.rows),
        "left_out": list(collected.left_out),
        "problems": dict(collected.problems),
        "annotators": [
            {
                "name": person.name,
                "answered": person.count,
                "ties": person.ties,
                "not_judged": person.not_judged,
                "gold_questions": person.num_known,
                "gold_accuracy": None if person.known is None else vars(person.known),
                "below_threshold": person.below,
            }
            for person in collected.annotators
        ],
        "agreement": agreement,
        "krippendorff_alpha": collected.alpha,
    }

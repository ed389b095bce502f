"""What a round came to, for people: on the terminal, in Prefect, in MLflow, and in the datasheet of the data."""

from collections import Counter
from collections.abc import Mapping, Sequence

from rlhf.evaluation.statistics import Estimate
from rlhf.feedback.collect import Collected
from rlhf.feedback.guidelines import Guidelines
from rlhf.feedback.label import Labelled, recorded_labels
from rlhf.feedback.revise import Revision
from rlhf.feedback.rounds import Round, num_asked
from rlhf.text.markdown import escape, table


def asked_markdown(asked: Round, queues: Mapping[str, str]) -> str:
    """What was asked, with each person's queue."""
    counts = num_asked(asked)
    why = sorted({comparison.why.partition(":")[0] for comparison in asked.comparisons})
    rows = [[escape(person or "anybody"), f"{counts[person]:,}", f"[queue]({url})"] for person, url in queues.items()]
    return (
        f"**Round {asked.name}**: {len(asked.comparisons):,} comparisons ({', '.join(why)}).\n\n"
        f"{table(['who', 'comparisons', 'in MLflow'], rows, numbers={1})}\n\n"
        f"Once they are answered: `rlhf feedback collect --round {asked.name}`."
    )


def collected_markdown(collected: Collected) -> str:
    """What was answered, and how far people agree."""
    parts = [_counts(collected), *_agreement(collected), _people(collected)]
    return "\n\n".join(part for part in parts if part)


def datasheet_note(collected: Collected, asked: Round) -> str:
    """Of the round, for the datasheet: judges, counts, people, agreement, and the guidelines as they were."""
    policies = sorted({name for comparison in asked.comparisons for name in comparison.policies})
    return "\n\n".join(
        [
            *_judges(asked),
            collected_markdown(collected),
            f"Answers of {', '.join(map(escape, policies))}. Recorded in MLflow run {asked.run_id}.",
            guidelines_markdown(asked.guidelines),
        ]
    )


def guidelines_markdown(guidelines: Guidelines) -> str:
    """The guidelines as they were, in YAML."""
    return f"Guidelines:\n\n```yaml\n{guidelines.as_yaml().replace('```', '` ` `').strip()}\n```"


def revised_markdown(
    name: str, num_revisions: int, critic: str | None, revisions: Sequence[Revision], num_rows: int
) -> str:
    """What came of critiques and revisions."""
    counts = Counter(name for one in revisions for name in one.principles)
    rows = [[escape(name), f"{count:,}"] for name, count in sorted(counts.items())]
    num_cut = sum(not revision.ended[-1] for revision in revisions)
    return (
        f"**Revisions {name}**: {len(revisions):,} answers, {num_revisions} "
        f"{'revision' if num_revisions == 1 else 'revisions'} each, by "
        f"{escape(critic) if critic else 'the policy itself'}; {num_rows:,} became demonstrations, the others were "
        f"left as they were, came out empty, or were cut off ({num_cut:,})."
        f"\n\n{table(['principle', 'drawn'], rows, numbers={1})}"
    )


def labelled_markdown(labelled: Labelled) -> str:
    """What a judge said, and how far it may be believed."""
    agreement = labelled.agreement
    measured = (
        f"**Nobody has measured the judge {escape(labelled.judge)} against people.**"
        if agreement is None
        else f"The judge {escape(labelled.judge)} agrees with people on {_interval(agreement)} of "
        f"{labelled.num_compared:,} verdicts"
        + (f"; people agree with each other on {_interval(labelled.people.all)}." if labelled.people else ".")
    )
    orders = "in both orders" if labelled.both_orders else "in one order alone, so that a bias for a place is in them"
    places = ", ".join(f"the {place} {count:,} times" for place, count in sorted(labelled.places.items()))
    return "\n\n".join(
        [
            measured,
            f"**Round {labelled.name}**: {labelled.labelled:,} comparisons labelled {orders}; {labelled.ties:,} ties, "
            f"{labelled.unreadable:,} answers that named no letter"
            + (f". In contradiction of itself it preferred {places}." if places else "."),
        ]
    )


def _judges(asked: Round) -> list[str]:
    """What was measured of each judge of the round; those that were not measured come first."""
    said = [labelled_markdown(labelled).partition("\n\n")[0] for labelled in recorded_labels(asked)]
    return sorted(said, key=lambda sentence: not sentence.startswith("**"))


def _counts(collected: Collected) -> str:
    ties = sum("ranks" in row for row in collected.rows)
    gold = sum(verdict.comparison.known is not None for verdict in collected.verdicts)
    none = sum(verdict.level.prefers == "none" for verdict in collected.verdicts)
    said = (
        f"**Round {collected.name}**: {len(collected.verdicts):,} of {collected.asked:,} answered; "
        f"{f'{len(collected.labels):,} labels of judges; ' if collected.labels else ''}"
        f"{len(collected.rows):,} preferences, {ties:,} of them ties; {none:,} could not be judged, {gold:,} were gold "
        f"questions."
    )
    problems = [f"- {count:,} not used: {escape(what)}" for what, count in sorted(collected.problems.items())]
    if collected.left_out:
        problems.append(f"- Left out: all answers of {', '.join(map(escape, collected.left_out))}, see below.")
    return "\n".join([said, *(["", *problems] if problems else [])])


def _agreement(collected: Collected) -> list[str]:
    agreement = collected.agreement
    if agreement is None:
        return ["No comparison was answered by two people, so nothing is known of their agreement."]
    decided = f"; {_interval(agreement.decided)} where both prefer one" if agreement.decided else ""
    kappa = "" if agreement.fleiss_kappa is None else f", Fleiss' kappa {agreement.fleiss_kappa:.2f}"
    alpha = "" if collected.alpha is None else f", Krippendorff's alpha of the levels {collected.alpha:.2f}"
    return [
        f"Agreement on {agreement.num_items:,} comparisons that several people answered: {_interval(agreement.all)}"
        f"{decided}{kappa}{alpha}."
    ]


def _people(collected: Collected) -> str:
    rows = [
        [
            escape(person.name or "without a name"),
            f"{person.count:,}",
            f"{person.ties:,}",
            f"{person.not_judged:,}",
            f"{_interval(person.known)} of {person.num_known:,}" if person.known else "",
            "**below the threshold**" if person.below else "",
        ]
        for person in collected.annotators
    ]
    header = ["annotator", "answered", "ties", "cannot judge", "gold questions right (95%)", ""]
    return table(header, rows, numbers={1, 2, 3}) if rows else ""


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"

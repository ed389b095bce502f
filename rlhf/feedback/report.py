"""What a round came to, for people: on the terminal, in Prefect, in MLflow, and in the datasheet of the data."""

from collections.abc import Mapping

from rlhf.evaluation.statistics import Estimate
from rlhf.feedback.collect import Collected
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
    """Of the round, for the datasheet: counts, people, agreement, and the guidelines as they were."""
    policies = sorted({name for comparison in asked.comparisons for name in comparison.policies})
    return "\n\n".join(
        [
            collected_markdown(collected),
            f"Answers of {', '.join(map(escape, policies))}. Recorded in MLflow run {asked.run_id}.",
            f"Guidelines:\n\n```yaml\n{asked.guidelines.as_yaml().replace('```', '` ` `').strip()}\n```",
        ]
    )


def _counts(collected: Collected) -> str:
    ties = sum("ranks" in row for row in collected.rows)
    gold = sum(verdict.comparison.known is not None for verdict in collected.verdicts)
    none = sum(verdict.level.prefers == "none" for verdict in collected.verdicts)
    said = (
        f"**Round {collected.name}**: {len(collected.verdicts):,} of {collected.asked:,} answered; "
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

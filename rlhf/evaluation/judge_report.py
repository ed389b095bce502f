"""An LLM judge's verdicts for people, and as metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.evaluation.answers import interval_metrics
from rlhf.text.markdown import as_code, escape, table

REPORT = "judge.md"
Figures = Mapping[str, Any]
_CODES = 12
"""Characters of a sha256 that are shown."""


def judge_markdown(judged: Figures, models: Sequence[str]) -> str:
    """What a judge says of two models' answers, and what its word is worth.

    Args:
        judged: as `LLMJudge.compare` returns it.
        models: names of the two, in words.
    """
    criteria = judged["criteria"]
    parts = [
        f"Judge: {escape(judged['model'])}, by the criteria of {as_code(criteria['name'])} (sha256 "
        f"{criteria['sha256'][:_CODES]}), behind an endpoint. It was asked of each two answers in both orders, and an "
        f"answer wins only where both orders agree.",
        _measured(judged),
    ]
    if judged["doubt"] is not None:
        parts.append(f"**It is not believed, and gave no verdict:** {judged['doubt']}.")
        return "\n\n".join(parts) + "\n"
    rows = [*_verdict_rows(judged["verdicts"]), *_grade_rows(judged["grades"], models)]
    parts.append(table([f"{models[0].capitalize()} against {models[1]}", ""], rows))
    return "\n\n".join(parts) + "\n"


def judge_metrics(judged: Figures | None, models: Sequence[str]) -> dict[str, float]:
    """The same as metrics, without the stage's name; none without a judge.

    Args:
        judged: as `LLMJudge.compare` returns it.
        models: names of the two, as the metrics have them.
    """
    if judged is None:
        return {}
    agreement, verdicts, grades = (judged[name] or {} for name in ("agreement", "verdicts", "grades"))
    intervals = {name: agreement.get(name) for name in ("agreement", "kappa")}
    intervals |= {name: verdicts.get(name) for name in ("length_controlled_win_rate", "consistency", "first_place")}
    intervals |= {"win_rate": (verdicts.get("win_rate") or {}).get("rate"), "grade_gain": grades.get("gain")}
    metrics = interval_metrics({name: interval for name, interval in intervals.items() if interval})
    counts = {name: verdicts.get(name) for name in ("num_prompts", "num_abstentions", "num_failed")}
    means = {f"{model}_grade": grades.get(place) for model, place in zip(models, ("first", "second"), strict=True)}
    metrics |= {name: float(count) for name, count in counts.items() if count is not None}
    metrics |= {name: mean["value"] for name, mean in means.items() if mean}
    return {f"judge_{name}": value for name, value in metrics.items()}


def _measured(judged: Figures) -> str:
    found = judged["agreement"]
    if found is None:
        return (
            "**It was never measured against people:** none has decided any pair, and unmeasured_judge is set. Nobody "
            "knows whether people would say the same."
        )
    people = judged["people"]["decided"] if judged["people"] else None
    rows = [
        ["Verdicts that decide; half where the judge decides nothing", _share(found["agreement"])],
        ["Verdicts where both decide", _share(found["decided"])],
        ["All that could be read, a tie being a verdict, too", _share(found["with_ties"])],
        ["Cohen's kappa of the latter", _number(found["kappa"]) if found["kappa"] else "undefined"],
        ["Pairs of which its answers could not be read", f"{found['num_abstentions']:,}"],
        *([["One annotator with another, ties apart", _share(people)]] if people else []),
    ]
    counts = f"{found['num_verdicts']:,} verdicts on pairs of {found['num_prompts']:,} prompts"
    return table([f"Agreement, on {counts} ({escape(judged['labels'])})", ""], rows)


def _verdict_rows(verdicts: Figures) -> list[list[str]]:
    won, size = verdicts["win_rate"], verdicts["num_prompts"]
    rows = [
        ["Prompts", f"{size:,}"],
        ["The same text twice, a tie that nobody was asked of", f"{verdicts['num_identical']:,}"],
        ["Abstentions: answers that could not be read, or were not given", f"{verdicts['num_abstentions']:,}"],
        ["Requests that failed, after all retries", f"{verdicts['num_failed']:,}"],
    ]
    if won is None:
        return [*rows, ["Win rate", "no verdict could be read"]]
    return [
        *rows,
        ["Wins, ties, losses", ", ".join(f"{won[name]:,}" for name in ("wins", "ties", "losses"))],
        ["Win rate, ties half", _share(won["rate"])],
        ["Win rate at equal length", _share(verdicts["length_controlled_win_rate"])],
        ["Both orders agree", _share(verdicts["consistency"])],
        ["The first place wins in both", _share(verdicts["first_place"])],
        ["The second place wins in both", _share(verdicts["second_place"])],
    ]


def _grade_rows(grades: Figures | None, models: Sequence[str]) -> list[list[str]]:
    if grades is None:
        return []
    if grades["gain"] is None:
        return [["Mean grade, 1 to 10", "too few grades could be read"]]
    return [
        *(
            [f"Mean grade, 1 to 10: {name}", _number(grades[side])]
            for name, side in zip(models, ("first", "second"), strict=True)
        ),
        ["Mean difference of grades, paired by prompt", _number(grades["gain"], "+.2f")],
        ["Prompts without both grades", f"{grades['num_abstentions']:,}"],
    ]


def _share(estimate: Figures | None) -> str:
    return f"{estimate['value']:.1%} ({estimate['low']:.1%} to {estimate['high']:.1%})" if estimate else "none"


def _number(estimate: Figures, form: str = ".2f") -> str:
    return f"{estimate['value']:{form}} ({estimate['low']:{form}} to {estimate['high']:{form}})"

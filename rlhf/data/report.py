"""What the data stage counts and reports."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlhf.markdown import escape, table
from rlhf.references import DataSource


@dataclass
class Counts:
    """What happened to the rows on their way into the splits, by kind.

    Preferences are counted in pairs; `rankings` has how many rows were rankings or ties, and the pairs of the rankings.
    """

    rows: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    leaks: Counter[str] = field(default_factory=Counter)
    rankings: Counter[str] = field(default_factory=Counter)
    num_labels: int = 0
    label_conflicts: int = 0
    longer_wins: float = 0.5
    cut_dialogues: Counter[str] = field(default_factory=Counter)
    dropped_messages: Counter[str] = field(default_factory=Counter)
    too_long: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, list[int]] = field(default_factory=dict)


def build_report(source: DataSource, splits: Mapping[tuple[str, str], int], counts: Counts) -> dict[str, Any]:
    """The content of report.json, without the tokenizer.

    Args:
        source: the data as `rlhf.data.source` found it.
        splits: rows that are left, by kind and split.
        counts: what happened on the way.
    """
    return {
        "gold": source.embedded,
        # What decides the output: the same data in another place, or tracked by now, is the same data.
        "source": source.model_dump(include={"md5", "embedded"}),
        "rows": dict(counts.rows),
        "splits": {f"{kind}/{split}": count for (kind, split), count in sorted(splits.items())},
        "duplicates": dict(counts.duplicates),
        "leaks": dict(counts.leaks),
        "rankings": dict(counts.rankings),
        "labels": counts.num_labels,
        "label_conflicts": counts.label_conflicts,
        "cut_dialogues": dict(counts.cut_dialogues),
        "dropped_messages": dict(counts.dropped_messages),
        "too_long": dict(counts.too_long),
        "longer_wins_accuracy": counts.longer_wins,
        "lengths_in_tokens": {name: _quantiles(values) for name, values in counts.lengths.items()},
    }


def _quantiles(values: Sequence[int]) -> dict[str, float]:
    names = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}
    return {name: float(np.quantile(values, q)) for name, q in names.items()} | {"mean": float(np.mean(values))}


def metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """The report's numbers as declared metrics."""
    logged = [f"{kind}/train" for kind in ("demonstrations", "preferences", "prompts")]
    logged += ["preferences/selection", "preferences/test", "prompts/validation", "prompts/test"]
    summed = ("duplicates", "leaks", "cut_dialogues", "too_long")
    return {
        **{f"data/num_{name.replace('/', '_')}": float(report["splits"][name]) for name in logged},
        **{f"data/num_{name}": float(sum(report[name].values())) for name in summed},
        "data/num_label_conflicts": float(report["label_conflicts"]),
    }


def render(report: Mapping[str, Any]) -> str:
    """The report as Markdown, for people."""
    titles = {
        "rows": "read",
        "duplicates": "removed as exact duplicates",
        "leaks": "removed as leaks",
        "cut_dialogues": "prompts cut to fit",
        "dropped_messages": "messages cut off",
        "too_long": "removed as too long",
    }
    changes = [[title, kind, str(n)] for name, title in titles.items() for kind, n in sorted(report[name].items())]
    lengths = report["lengths_in_tokens"]
    columns = ("min", "median", "p95", "max")
    return "\n\n".join(
        [
            "# Data",
            table(["split", "rows"], [[name, str(count)] for name, count in report["splits"].items()]),
            table(["what", "of", "rows"], changes),
            table(
                ["tokens", *columns], [[name, *(f"{found[c]:.0f}" for c in columns)] for name, found in lengths.items()]
            ),
            *_rankings(report),
            f"Pairs of responses that stand in both orders: {report['label_conflicts']}.",
            f'"The longer one wins" is right for {report["longer_wins_accuracy"]:.3f} of all pairs.\n',
            *_of_base(report.get("base", [])),
        ]
    )


def _rankings(report: Mapping[str, Any]) -> list[str]:
    """Sentences about what is no pair, where there is any."""
    counts, sentences = report["rankings"], []
    if counts:
        named = {name: counts.get(name, 0) for name in ("rankings", "pairs", "ties")}
        sentences.append(
            f"{named['rankings']} rankings of several responses count as {named['pairs']} of the pairs; "
            f"{named['ties']} rows are ties, which no stage learns from yet."
        )
    if report["labels"]:
        sentences.append(f"{report['labels']} rows of unpaired feedback, which no stage learns from yet.")
    return sentences


def _of_base(differences: Sequence[str]) -> list[str]:
    if not differences:
        return []
    return ["# Base and tokenizer", "\n".join(f"- {escape(sentence)}" for sentence in differences) + "\n"]


def empty_split(kind: str, split: str, share: float, counts: Counts) -> str:
    """The message about a split that nothing is left for, though later stages need it.

    Args:
        kind: demonstrations, preferences or prompts.
        split: train, selection, validation or test.
        share: of the prompts that the split gets.
        counts: what happened to the rows.
    """
    settings = {
        "test": "raise data.test_fraction",
        "validation": "raise data.validation_fraction",
        "train": "lower data.test_fraction, data.validation_fraction or data.selection_fraction",
        "selection": "raise data.selection_fraction",
    }
    lost = {"as duplicates": counts.duplicates[kind], "as too long": counts.too_long[kind]}
    lost["as leaks"] = sum(count for name, count in counts.leaks.items() if name.startswith(f"{kind}/"))
    removed = ", ".join(f"{count} removed {why}" for why, count in lost.items() if count)
    lost_text = f" ({removed})" if removed else ""
    return (
        f"{kind}.jsonl: of {counts.rows[kind]} rows{lost_text} none is left for the {split} split, "
        f"which gets {share:.1%} of the prompts; {settings[split]}, "
        f"or give more rows (some {math.ceil(5 / share)} different prompts)"
    )

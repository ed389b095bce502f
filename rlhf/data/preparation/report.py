"""The counts of the data stage, and its report."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rlhf.config.data import RULE_BEHIND
from rlhf.errors import DataError
from rlhf.references import DataSource
from rlhf.text.markdown import escape, table

MAX_LEFT_OUT = 0.1
"""Share of a file's rows beyond which what encoding leaves nothing of is a fault of the data or the tokenizer."""
_NUM_NAMED = 10

Rows = dict[str, dict[str, list[int]]]
"""Lines of rows by kind and by what happened to them."""


@dataclass
class Counts:
    """Counts of rows on their way into the splits, by kind, under the names of report.json.

    Preferences are counted in pairs; `rankings` has how many rows were rankings or ties, the pairs of the rankings, and
    the pairs of equal rank that are soft labels.
    """

    rows: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    leaks: Counter[str] = field(default_factory=Counter)
    rankings: Counter[str] = field(default_factory=Counter)
    labels: int = 0
    label_conflicts: int = 0
    longer_wins_accuracy: float = 0.5
    cut_dialogues: Counter[str] = field(default_factory=Counter)
    dropped_messages: Counter[str] = field(default_factory=Counter)
    too_long: Counter[str] = field(default_factory=Counter)
    lengths_in_tokens: dict[str, list[int]] = field(default_factory=dict)
    left_out_in_tokens: Rows = field(default_factory=dict)
    changed_in_tokens: Rows = field(default_factory=dict)
    evaluation_sets: dict[str, dict[str, Any]] = field(default_factory=dict)

    def num_left_out(self, kind: str) -> int:
        """Rows that are nothing, or nothing else than each other, in token ids."""
        return sum(map(len, self.left_out_in_tokens.get(kind, {}).values()))


def build_report(source: DataSource, splits: Mapping[tuple[str, str], int], counts: Counts) -> dict[str, Any]:
    """The content of report.json, without the tokenizer.

    Args:
        source: the data as `rlhf.data.versions.resolve` found it.
        splits: rows that are left, by kind and split.
        counts: what happened on the way.
    """
    return {
        **vars(counts),
        "gold": RULE_BEHIND[source.embedded] if source.embedded else None,
        # Only what decides the output: the same data in another place, or tracked by now, is the same data.
        "source": source.model_dump(include={"md5", "embedded"}),
        "splits": {f"{kind}/{split}": count for (kind, split), count in sorted(splits.items())},
        "left_out_in_tokens": _named(counts.left_out_in_tokens),
        "changed_in_tokens": _named(counts.changed_in_tokens),
        "lengths_in_tokens": {name: _quantiles(values) for name, values in counts.lengths_in_tokens.items()},
    }


def _named(rows: Rows) -> dict[str, dict[str, dict[str, Any]]]:
    """Counts, and the lines of the first rows."""
    return {
        kind: {w: {"count": len(lines), "lines": sorted(lines)[:_NUM_NAMED]} for w, lines in sorted(reasons.items())}
        for kind, reasons in sorted(rows.items())
    }


def _quantiles(values: Sequence[int]) -> dict[str, float]:
    names = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}
    return {name: float(np.quantile(values, q)) for name, q in names.items()} | {"mean": float(np.mean(values))}


def metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """The report's numbers as declared metrics."""
    logged = [f"{kind}/train" for kind in ("demonstrations", "preferences", "prompts")]
    logged += ["preferences/selection", "preferences/test", "prompts/validation", "prompts/test", "prompts/gate"]
    summed = ("duplicates", "leaks", "cut_dialogues", "too_long")
    return {
        **{f"data/num_{name.replace('/', '_')}": float(report["splits"][name]) for name in logged},
        **{f"data/num_{name}": float(sum(report[name].values())) for name in summed},
        **{f"data/num_{name}": float(num_rows_in_tokens(report, name)) for name in ("left_out", "changed")},
        "data/num_label_conflicts": float(report["label_conflicts"]),
    }


def num_rows_in_tokens(report: Mapping[str, Any], name: Literal["left_out", "changed"]) -> int:
    """Rows that encoding left nothing of, or times that it changed a row in some way."""
    return sum(named["count"] for reasons in report[f"{name}_in_tokens"].values() for named in reasons.values())


def in_tokens_table(report: Mapping[str, Any]) -> str | None:
    """A table of what encoding changed or left out, with the lines of the first rows; None where it changed nothing."""
    titles = {"left_out": "left out: ", "changed": ""}
    rows = [
        [escape(title + what), kind, f"{named['count']:,}", _lines(named)]
        for name, title in titles.items()
        for kind, reasons in report[f"{name}_in_tokens"].items()
        for what, named in reasons.items()
    ]
    return table(["change in token ids", "kind", "rows", "lines"], rows) if rows else None


def sets_table(report: Mapping[str, Any]) -> str | None:
    """A table of the evaluation sets: rows by kind, and what was left out; None where there are none."""
    rows = [
        [
            escape(name),
            ", ".join(f"{count:,} {kind}" for kind, count in held_out["kinds"].items()),
            f"{held_out['duplicates']:,}",
            f"{held_out['too_long']:,}",
            f"{held_out['unknown_words']:,}",
        ]
        for name, held_out in report.get("evaluation_sets", {}).items()
    ]
    header = [
        "evaluation set",
        "rows",
        "duplicates left out",
        "too long, left out",
        "with text unknown to the tokenizer",
    ]
    return table(header, rows) if rows else None


def _lines(named: Mapping[str, Any]) -> str:
    rest = named["count"] - len(named["lines"])
    return ", ".join(map(str, named["lines"])) + (f" and {rest:,} more" if rest else "")


def tokenizer_sentences(tokenizer: Mapping[str, Any]) -> list[str]:
    """Sentences on the choice of tokenizer and chat template, and on what to watch in them, as Markdown."""
    template = {"own": "a plain one of this project", "kept": "the base's"}[tokenizer["chat_template"]]
    named = f" named {escape(tokenizer['template_name'])}" if tokenizer["template_name"] else ""
    sentences = [
        f"Tokenizer: {escape(tokenizer['origin'])}, {tokenizer['vocab_size']:,} tokens; pad token "
        f"{escape(tokenizer['pad_token'])} ({tokenizer['pad_token_choice']}); chat template: {template}{named}."
    ]
    sentences += [f"{sentence}." for sentence in tokenizer["fixed"]]
    if tokenizer["turn_markers"]:
        markers = ", ".join(escape(json.dumps(marker)) for marker in tokenizer["turn_markers"])
        sentences.append(
            f"The chat template marks turns by plain text ({markers}): a message that holds it looks like two turns."
        )
    return sentences


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
    columns = ("min", "median", "p95", "max")
    lengths = [[name, *(f"{of[c]:.0f}" for c in columns)] for name, of in report["lengths_in_tokens"].items()]
    in_tokens, sets = in_tokens_table(report), sets_table(report)
    rankings = Counter(report["rankings"])
    sentences = [
        f"{rankings['rankings']} rankings of several responses count as {rankings['pairs']} of the pairs; "
        f"{rankings['ties']} rows are ties. {rankings['tied_pairs']} pairs of equal rank are soft labels of the reward "
        f"models' training; the others are left out (data.ties)."
        if rankings
        else "",
        f"{report['labels']} rows of unpaired feedback, which KTO learns from." if report["labels"] else "",
    ]
    base = "\n".join(f"- {escape(sentence)}" for sentence in report["base"])
    return "\n\n".join(
        [
            "# Data",
            table(["split", "rows"], [[name, str(count)] for name, count in report["splits"].items()]),
            table(["what", "kind", "rows"], changes),
            table(["tokens", *columns], lengths),
            *filter(None, [*sentences, sets]),
            *([in_tokens] if in_tokens else []),
            *tokenizer_sentences(report["tokenizer"]),
            f"Pairs of responses that stand in both orders: {report['label_conflicts']}.",
            f'The rule "the longer response wins" is right for {report["longer_wins_accuracy"]:.3f} of all pairs.\n',
            *(["# Base and tokenizer", f"{base}\n"] if base else []),
        ]
    )


def check_left_out(counts: Counts) -> None:
    """Refuse data of which encoding leaves too little.

    Raises:
        DataError: more than `MAX_LEFT_OUT` of a file's rows are of no use in token ids.
    """
    for kind, reasons in _named(counts.left_out_in_tokens).items():
        if counts.num_left_out(kind) > MAX_LEFT_OUT * counts.rows[kind]:
            why = "; ".join(f"{named['count']}: {what} (lines {_lines(named)})" for what, named in reasons.items())
            raise DataError(
                f"{kind}.jsonl: {counts.num_left_out(kind)} of {counts.rows[kind]} rows are of no use to the model: "
                f"{why}; take a base whose tokenizer and chat template suit the data, another of its templates "
                f"(model.chat_template), or remove these rows"
            )


def empty_split(kind: str, split: str, share: float, counts: Counts) -> str:
    """The message about a split that nothing is left for, though later stages need it.

    Args:
        kind: demonstrations, preferences or prompts.
        split: train, selection, validation, test or gate.
        share: of the prompts that the split gets.
        counts: what happened to the rows.
    """
    settings = {
        "test": "raise data.test_fraction, or lower data.gate_fraction",
        "gate": "raise data.gate_fraction or data.test_fraction",
        "validation": "raise data.validation_fraction",
        "train": "lower data.test_fraction, data.validation_fraction or data.selection_fraction",
        "selection": "raise data.selection_fraction",
    }
    lost = {"as duplicates": counts.duplicates[kind], "as too long": counts.too_long[kind]}
    lost["as empty or equal in tokens"] = counts.num_left_out(kind)
    lost["as leaks"] = sum(count for name, count in counts.leaks.items() if name.startswith(f"{kind}/"))
    removed = ", ".join(f"{count} removed {why}" for why, count in lost.items() if count)
    lost_text = f" ({removed})" if removed else ""
    return (
        f"{kind}.jsonl: of {counts.rows[kind]} rows{lost_text} none is left for the {split} split, "
        f"which gets {share:.1%} of the prompts; {settings[split]}, "
        f"or give more rows (about {math.ceil(5 / share)} different prompts)"
    )

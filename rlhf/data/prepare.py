"""The data stage: from `data/` to splits that every later stage can use as they are."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.config import DataConfig, ModelConfig
from rlhf.conversations import cut_to_fit, encode_pairs, encode_prompts
from rlhf.data.schema import DATASHEET, KINDS, REQUIRED_FIELDS, Row, check_files, read_rows
from rlhf.data.splits import EvaluationPrompts, is_for_selection, prompt_key, split_of
from rlhf.errors import DataError
from rlhf.references import DataSource
from rlhf.tokenizers import prepare_tokenizer
from rlhf.workspace import Workspace

# The splits that later stages cannot do without.
NEEDED = {
    "demonstrations": ("train", "validation"),
    "preferences": ("train", "selection", "validation", "test"),
    "prompts": ("train", "validation", "test"),
}
TRAINING_SPLITS = ("train", "selection")


@dataclass(frozen=True)
class NumberedRow:
    """A row and the line that it stands in."""

    line: int
    row: Row


@dataclass
class Counts:
    """What happened to the rows on their way into the splits."""

    rows: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    leaks: Counter[str] = field(default_factory=Counter)
    label_conflicts: int = 0
    cut_dialogues: Counter[str] = field(default_factory=Counter)
    too_long: Counter[str] = field(default_factory=Counter)


Splits = dict[tuple[str, str], list[NumberedRow]]


def prepare_data(
    config: DataConfig,
    model: ModelConfig,
    max_response_tokens: int,
    source: DataSource,
    root: Path,
    workspace: Workspace,
) -> None:
    """Validate, split, decontaminate, cut to the context, and report.

    Args:
        config: where the data is and how it is split.
        model: decides the tokenizer and the context.
        max_response_tokens: what a prompt must leave room for.
        source: the data as `rlhf.data.source` found it.
        root: what relative paths resolve against.
        workspace: the splits, the tokenizer and `report.json` go to its output.

    Raises:
        DataError: a row is at fault, does not fit, or a split that is needed is empty.
    """
    with tempfile.TemporaryDirectory(prefix="rlhf-import-") as scratch:
        folder = _data_folder(root / source.path, Path(scratch) / "data")
        counts = Counts()
        splits = _split(_read(folder, config, counts), config, counts)
        datasheet = (folder / DATASHEET).read_text(encoding="utf-8")
    longer_wins = longer_wins_accuracy([n.row for (kind, _), rows in splits.items() if kind == "preferences" for n in rows])
    _remove_leaks(splits, counts)
    tokenizer, tokenizer_report = prepare_tokenizer(model, _training_texts(splits))
    lengths = _cut(splits, tokenizer, config, model.max_length, max_response_tokens, counts)
    _check_not_empty(splits)
    for (kind, split), rows in splits.items():
        _write_rows(workspace.output / kind / f"{split}.jsonl", [numbered.row for numbered in rows])
    tokenizer.save_pretrained(workspace.output / "tokenizer")
    (workspace.output / DATASHEET).write_text(datasheet, encoding="utf-8")
    report = {
        "gold": source.embedded,
        "source": source.model_dump(),
        "splits": {f"{kind}/{split}": len(rows) for (kind, split), rows in sorted(splits.items())},
        "duplicates": dict(counts.duplicates),
        "leaks": dict(counts.leaks),
        "label_conflicts": counts.label_conflicts,
        "cut_dialogues": dict(counts.cut_dialogues),
        "too_long": dict(counts.too_long),
        "longer_wins_accuracy": longer_wins,
        "lengths_in_tokens": lengths,
        "tokenizer": asdict(tokenizer_report),
    }
    (workspace.output / "report.json").write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    (workspace.report / "data.md").write_text(_markdown(report), encoding="utf-8")
    workspace.log_metrics(_metrics(splits, counts), None)


def longer_wins_accuracy(preferences: Sequence[Row]) -> float:
    """How often the chosen dialogue is the longer one, in characters; a tie counts half.

    Source:
        The baseline of Singhal et al., 2310.03716.
    """
    points = 0.0
    for row in preferences:
        chosen, rejected = (sum(len(m["content"]) for m in row[name]) for name in ("chosen", "rejected"))
        points += 1.0 if chosen > rejected else 0.5 if chosen == rejected else 0.0
    return points / len(preferences) if preferences else 0.5


def _data_folder(path: Path, scratch: Path) -> Path:
    """The folder to read: the one named, or one made from a single file."""
    if path.is_file():
        from rlhf.data.formats import import_dataset

        import_dataset(str(path), scratch)
        return scratch
    check_files(path)
    return path


def _read(folder: Path, config: DataConfig, counts: Counts) -> Iterator[tuple[str, NumberedRow]]:
    """Rows of all files, without exact duplicates."""
    for kind in KINDS:
        seen: set[str] = set()
        for line, row in islice(read_rows(folder / f"{kind}.jsonl", kind), config.max_rows):
            counts.rows[kind] += 1
            text = json.dumps([row[name] for name in REQUIRED_FIELDS[kind]], sort_keys=True)
            if text in seen:
                counts.duplicates[kind] += 1
                continue
            seen.add(text)
            yield kind, NumberedRow(line, row)


def _split(rows: Iterator[tuple[str, NumberedRow]], config: DataConfig, counts: Counts) -> Splits:
    splits: Splits = {(kind, split): [] for kind, names in NEEDED.items() for split in names}
    splits["demonstrations", "test"] = []
    pairs: set[tuple[str, str, str]] = set()
    for kind, numbered in rows:
        prompt = numbered.row["prompt"]
        split: str = split_of(prompt, config)
        if kind == "preferences":
            key, chosen, rejected = (prompt_key(numbered.row[name]) for name in REQUIRED_FIELDS[kind])
            counts.label_conflicts += (key, rejected, chosen) in pairs
            pairs.add((key, chosen, rejected))
            if split == "train" and is_for_selection(prompt, config):
                split = "selection"
        splits[kind, split].append(numbered)
    return splits


def _remove_leaks(splits: Splits, counts: Counts) -> None:
    """Take out of the training splits what appears in an evaluation split of any file."""
    evaluation = EvaluationPrompts(
        numbered.row["prompt"]
        for (_, split), rows in splits.items()
        if split not in TRAINING_SPLITS
        for numbered in rows
    )
    for (kind, split), rows in splits.items():
        if split not in TRAINING_SPLITS:
            continue
        kept = []
        for numbered in rows:
            leak = evaluation.leak(numbered.row["prompt"])
            if leak is None:
                kept.append(numbered)
            else:
                counts.leaks[f"{kind}/{leak}"] += 1
        splits[kind, split] = kept


def _training_texts(splits: Splits) -> Iterator[str]:
    for (kind, split), rows in splits.items():
        if split in TRAINING_SPLITS:
            for numbered in rows:
                for name in REQUIRED_FIELDS[kind]:
                    yield from (message["content"] for message in numbered.row[name])


def _cut(
    splits: Splits, tokenizer: Any, config: DataConfig, max_length: int, max_response_tokens: int, counts: Counts
) -> dict[str, dict[str, float]]:
    """Cut prompts at a turn until prompt and response fit; returns quantiles of the lengths that are left."""
    lengths: dict[str, list[int]] = {}
    for (kind, split), rows in splits.items():
        allowed = _room_for_prompts(kind, [n.row for n in rows], tokenizer, max_length, max_response_tokens)
        encoded = encode_prompts(tokenizer, [n.row["prompt"] for n in rows])
        kept = []
        for numbered, room, ids in zip(rows, allowed, encoded, strict=True):
            fitted = numbered if len(ids) <= room else _fit(numbered, kind, room, tokenizer, config, counts)
            if fitted is not None:
                kept.append(fitted)
                lengths.setdefault(f"{kind}/prompt", []).append(min(len(ids), room))
        splits[kind, split] = kept
    return {name: _quantiles(values) for name, values in lengths.items()}


def _room_for_prompts(
    kind: str, rows: Sequence[Row], tokenizer: Any, max_length: int, max_response_tokens: int
) -> list[int]:
    """Tokens that each row's prompt may have."""
    if kind == "prompts":
        return [max_length - max_response_tokens] * len(rows)
    longest = np.zeros(len(rows), dtype=int)
    for name in REQUIRED_FIELDS[kind][1:]:
        pairs = encode_pairs(tokenizer, [row["prompt"][-1:] for row in rows], [row[name] for row in rows])
        longest = np.maximum(longest, [len(completion) for _, completion in pairs])
    return [max_length - int(length) for length in longest]


def _fit(
    numbered: NumberedRow, kind: str, room: int, tokenizer: Any, config: DataConfig, counts: Counts
) -> NumberedRow | None:
    try:
        prompt, _ = cut_to_fit(tokenizer, numbered.row["prompt"], room)
    except DataError as error:
        if config.overlong == "error":
            raise DataError(
                f"{kind}.jsonl:{numbered.line}: {error}; or set data.overlong to drop to leave such rows out"
            ) from None
        counts.too_long[kind] += 1
        return None
    counts.cut_dialogues[kind] += 1
    return NumberedRow(numbered.line, numbered.row | {"prompt": prompt})


def _check_not_empty(splits: Splits) -> None:
    for kind, names in NEEDED.items():
        for split in names:
            if not splits[kind, split]:
                total = sum(len(rows) for (other, _), rows in splits.items() if other == kind)
                raise DataError(
                    f"{kind}.jsonl: no row of {total} is left for the {split} split; "
                    f"give more rows, or change data.test_fraction, data.validation_fraction or data.selection_fraction"
                )


def _quantiles(values: Sequence[int]) -> dict[str, float]:
    names = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}
    return {name: float(np.quantile(values, q)) for name, q in names.items()} | {"mean": float(np.mean(values))}


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _metrics(splits: Splits, counts: Counts) -> dict[str, float]:
    named = {
        f"data/num_{kind}_{split}": float(len(splits[kind, split]))
        for kind, split in (
            ("demonstrations", "train"),
            ("preferences", "train"),
            ("preferences", "selection"),
            ("preferences", "test"),
            ("prompts", "train"),
            ("prompts", "validation"),
            ("prompts", "test"),
        )
    }
    return named | {
        "data/num_duplicates": float(counts.duplicates.total()),
        "data/num_leaks": float(counts.leaks.total()),
        "data/num_label_conflicts": float(counts.label_conflicts),
        "data/num_cut_dialogues": float(counts.cut_dialogues.total()),
        "data/num_too_long": float(counts.too_long.total()),
    }


def _markdown(report: Mapping[str, Any]) -> str:
    lines = ["# Data", "", "| split | rows |", "|---|---|"]
    lines += [f"| {name} | {count} |" for name, count in report["splits"].items()]
    lines += ["", "| removed or changed | rows |", "|---|---|"]
    for title, name in (("duplicate", "duplicates"), ("leak", "leaks"), ("cut", "cut_dialogues"), ("too long", "too_long")):
        lines += [f"| {title}: {kind} | {count} |" for kind, count in report[name].items()]
    lines += [
        "",
        f"Pairs of responses that stand in both orders: {report['label_conflicts']}.",
        f'"The longer one wins" is right for {report["longer_wins_accuracy"]:.3f} of all pairs.',
    ]
    return "\n".join(lines) + "\n"

"""The data stage: from `data/` to splits that every later stage can use as they are."""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from rlhf.config.data import DataConfig
from rlhf.config.model import ComputeConfig, ModelConfig
from rlhf.data.evaluation_sets import FOLDER as SETS
from rlhf.data.preparation.annotations import FILE as ANNOTATIONS
from rlhf.data.preparation.annotations import check_held_out, shared_annotations
from rlhf.data.preparation.held_out_sets import HeldOutSet, read_held_out
from rlhf.data.preparation.leaks import find_leaks
from rlhf.data.preparation.report import Counts, build_report, check_left_out, empty_split, metrics, render
from rlhf.data.preparation.splits import is_for_selection, prompt_key, split_of
from rlhf.data.preparation.text_changes import turn_markers
from rlhf.data.preparation.truncation import Context, Fitted, NumberedRow, check_roles, fit_rows
from rlhf.data.schema import (
    ALL_KINDS,
    DATASHEET,
    KINDS,
    ORIGIN_FIELDS,
    TEXT_FIELDS,
    Row,
    check_files,
    is_ranking,
    is_tie,
    pairs_of,
    read_rows,
    write_rows,
)
from rlhf.errors import DataError
from rlhf.modeling.special_tokens import differences
from rlhf.modeling.tokenizer import prepare_tokenizer
from rlhf.references import DataSource
from rlhf.workspace import Workspace

logger = logging.getLogger(__name__)

# Splits that later stages need.
NEEDED = {
    "demonstrations": ("train", "validation"),
    "preferences": ("train", "selection", "validation", "test"),
    "prompts": ("train", "validation", "test", "gate"),
}
# Splits that are written and that nothing reads.
ASIDE = (("demonstrations", "test"), ("demonstrations", "gate"), ("preferences", "gate"))
TRAINING_SPLITS = ("train", "selection")

Splits = dict[tuple[str, str], list[NumberedRow]]


@dataclass(frozen=True)
class Collected:
    """Rows that a recipe's own stages have collected, and that join those of the data.

    Attributes:
        folders: outputs of these stages, each with a file of demonstrations or preferences and a `note.md`.
        given_preferences: the preferences of the data are used as well.
        tokenizer: folder of the tokenizer that the models of the run have.
    """

    folders: Sequence[Path]
    given_preferences: bool
    tokenizer: Path


def prepare_data(
    config: DataConfig,
    model: ModelConfig,
    max_response_tokens: int,
    source: DataSource,
    root: Path,
    workspace: Workspace,
    compute: ComputeConfig | None = None,
    collected: Collected | None = None,
) -> None:
    """Validate, split, decontaminate, cut to the context, and report. Data without responses is sampled before that.

    Args:
        config: where the data is and how it is split.
        model: decides the tokenizer and the context.
        max_response_tokens: what a prompt must leave room for.
        source: the data as `rlhf.data.versions.resolve` found it.
        root: what relative paths resolve against.
        workspace: the splits, the tokenizer and `report.json` go to its output.
        compute: where the base is sampled, if `config.sampled_from` says so; otherwise not read.
        collected: further rows, of which `config.max_rows` leaves none out.

    Raises:
        DataError: a row is at fault, does not fit, or a split that is needed is empty.
    """
    counts = Counts()
    sets = read_held_out(root / source.path)
    with tempfile.TemporaryDirectory(prefix="rlhf-import-") as scratch:
        folder = Path(scratch) / "data"
        max_rows = config.max_rows
        if config.sampled_from is None:
            folder = _data_folder(root / source.path, folder)
        else:
            from rlhf.data.sampling import sample_folder

            assert compute is not None, "the task sees to it"
            sample_folder(folder, config, model, max_response_tokens, compute, workspace.checkpoints)
            max_rows = None  # counts prompts then, and these are no more than that
        if collected is not None:
            folder = _joined(folder, collected, max_rows, Path(scratch) / "joined")
            max_rows = None
        kinds = (*KINDS, "labels") if (folder / "labels.jsonl").is_file() else KINDS
        rows = {kind: list(_read(folder / f"{kind}.jsonl", kind, config.ties, max_rows, counts)) for kind in kinds}
        counts.labels = counts.rows["labels"] if "labels" in rows else 0
        texts = _read_corpus(folder / "corpus.jsonl", max_rows)
        check_held_out((numbered.row for numbered in rows["preferences"]), config)
        annotations: list[Row] = []
        if any("annotator" in numbered.row for numbered in rows["preferences"]):
            given = (row for _, row in read_rows(folder / "preferences.jsonl", "preferences"))
            annotations = shared_annotations(islice(given, max_rows), config)
        datasheet = (folder / DATASHEET).read_text(encoding="utf-8")
    counts.label_conflicts = count_label_conflicts(rows["preferences"])
    splits = _split(rows, config)
    corpus = _split_corpus(texts, splits, sets, config, counts)
    _remove_leaks(splits, counts)
    for held_out in sets:
        _remove_leaks(splits, counts, held_out)
    # The models of a run go on with the tokenizer that they began with.
    begun_with: dict[str, Any] = {}
    if collected is not None:
        begun_with = dict.fromkeys(("architecture", "revision", "chat_template")) | {"base": str(collected.tokenizer)}
    tokenizer, tokenizer_report = prepare_tokenizer(
        model.model_copy(update=begun_with), chain(_training_texts(splits), corpus.get("train", ()))
    )
    read = {**rows, **{held_out.kind: held_out.numbered for held_out in sets}}
    check_roles(tokenizer, ((kind, numbered) for kind in read for numbered in read[kind]))
    room = Context(tokenizer, model.max_length, max_response_tokens)
    _cut(splits, room, config, counts)
    check_left_out(counts)
    fitting = {held_out.name: held_out.fitting(room, counts) for held_out in sets}
    _remove_collisions(splits, counts, {key for held_out in sets for key in held_out.prompts})
    _check_not_empty(splits, config, counts)

    for (kind, split), numbered_rows in splits.items():
        (workspace.output / kind).mkdir(parents=True, exist_ok=True)
        write_rows(workspace.output / kind / f"{split}.jsonl", (numbered.row for numbered in numbered_rows))
    for split, rows_of_split in corpus.items():
        (workspace.output / "corpus").mkdir(exist_ok=True)
        write_rows(workspace.output / "corpus" / f"{split}.jsonl", ({"text": text} for text in rows_of_split))
    for name, rows_of_set in fitting.items():
        (workspace.output / SETS).mkdir(exist_ok=True)
        write_rows(workspace.output / SETS / f"{name}.jsonl", rows_of_set)
    if annotations:
        write_rows(workspace.output / ANNOTATIONS, annotations)
    tokenizer.save_pretrained(workspace.output / "tokenizer")
    (workspace.output / DATASHEET).write_text(datasheet, encoding="utf-8")
    report = build_report(source, {name: len(numbered_rows) for name, numbered_rows in splits.items()}, counts)
    report["held_out_annotators"] = list(config.held_out_annotators)
    report["base"] = differences(model, tokenizer)
    report["tokenizer"] = asdict(tokenizer_report) | {
        "origin": _without_folders(tokenizer_report.origin),
        "turn_markers": list(turn_markers(tokenizer)),
    }
    (workspace.output / "report.json").write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    workspace.report.mkdir(parents=True, exist_ok=True)
    (workspace.report / "data.md").write_text(render(report), encoding="utf-8")
    workspace.log_metrics(metrics(report), None)


def _joined(folder: Path, collected: Collected, max_rows: int | None, joined: Path) -> Path:
    """The data with rows that were collected since, in a folder of its own."""
    joined.mkdir()
    for path in sorted(folder.iterdir()):
        if path.suffix == ".jsonl":
            kind = path.stem
            dropped = kind == "preferences" and not collected.given_preferences
            given = islice((row for _, row in read_rows(path, kind)), 0 if dropped else max_rows)
            added = [part / path.name for part in collected.folders if (part / path.name).is_file()]
            write_rows(joined / path.name, chain(given, *((row for _, row in read_rows(one, kind)) for one in added)))
    notes = [(part / "note.md").read_text(encoding="utf-8").strip() for part in collected.folders]
    datasheet = (folder / DATASHEET).read_text(encoding="utf-8").rstrip()
    if not collected.given_preferences:
        notes.insert(0, "The preferences of the data were left out.")
    (joined / DATASHEET).write_text("\n\n".join([datasheet, "## Collected since", *notes]) + "\n", encoding="utf-8")
    return joined


def longer_wins_points(row: Row) -> float:
    """1 where the chosen dialogue is the longer one in characters, 0.5 for a tie of lengths or of raters, 0 otherwise.

    Source:
        The baseline of Singhal et al., 2310.03716.
    """
    chosen, rejected = (sum(len(message["content"]) for message in row[side]) for side in ("chosen", "rejected"))
    return 0.5 if chosen == rejected or is_tie(row) else 1.0 if chosen > rejected else 0.0


def count_label_conflicts(preferences: Sequence[NumberedRow]) -> int:
    """Pairs of responses to one prompt that stand in both orders, ties apart."""
    decided = [n for n in preferences if not is_tie(n.row)]
    pairs = {(n.key, prompt_key(n.row["chosen"]), prompt_key(n.row["rejected"])) for n in decided}
    return sum(chosen < rejected and (key, rejected, chosen) in pairs for key, chosen, rejected in pairs)


def _without_folders(origin: str) -> str:
    """The name of a local model; where it lies on this machine is no part of what was made."""
    return Path(origin).name if Path(origin).is_dir() else origin


def _data_folder(path: Path, scratch: Path) -> Path:
    """The folder to read: the one named, or one made from a single file."""
    if path.is_file():
        from rlhf.data.importing.formats import import_dataset

        report = import_dataset(str(path), scratch)
        logger.info("%s is read as a file of its own:\n%s", path.name, report.summary)
        return report.destination
    check_files(path)
    return path


def _read(path: Path, kind: str, ties: str, max_rows: int | None, counts: Counts) -> Iterator[NumberedRow]:
    """Rows of a file without exact duplicates; where a row is from makes no difference."""
    seen: set[str] = set()
    points = 0.0
    for line, row in islice(_pairs(read_rows(path, kind), kind, ties, counts), max_rows):
        points += longer_wins_points(row) if kind == "preferences" else 0.0
        text = json.dumps({name: value for name, value in row.items() if name not in ORIGIN_FIELDS}, sort_keys=True)
        if text in seen:
            counts.duplicates[kind] += 1
            continue
        seen.add(text)
        yield NumberedRow(line, row, prompt_key(row["prompt"]))
    if kind == "preferences":
        counts.longer_wins_accuracy = points / max(1, counts.rows[kind])


def _pairs(rows: Iterator[tuple[int, Row]], kind: str, ties: str, counts: Counts) -> Iterator[tuple[int, Row]]:
    """Rows, each ranking as the pairs that it stands for: of one prompt, so that no split parts them."""
    for line, row in rows:
        pairs = list(pairs_of(row, with_ties=ties == "soft_label"))
        if is_ranking(row):
            num_decided = sum(not is_tie(pair) for pair in pairs)
            counts.rankings["pairs"] += num_decided
            counts.rankings["rankings" if num_decided else "ties"] += 1
            if len(pairs) > num_decided:
                counts.rankings["tied_pairs"] += len(pairs) - num_decided
        for pair in pairs:
            counts.rows[kind] += 1
            yield line, pair


def _read_corpus(path: Path, max_rows: int | None) -> list[str]:
    """Texts of a corpus, each once; none where there is no file."""
    if not path.is_file():
        return []
    return list(dict.fromkeys(row["text"] for _, row in islice(read_rows(path, "corpus"), max_rows)))


def _split_corpus(
    texts: Sequence[str], splits: Splits, sets: Sequence[HeldOutSet], config: DataConfig, counts: Counts
) -> dict[Literal["train", "validation"], list[str]]:
    """Texts to learn from and texts to measure on, none with an evaluation prompt in it; empty without texts."""
    if not texts:
        return {}
    aside = (rows for (_, split), rows in splits.items() if split not in TRAINING_SPLITS)
    held_out = {numbered.key: numbered.row["prompt"] for rows in aside for numbered in rows}
    for held_out_set in sets:
        held_out |= held_out_set.prompts
    prompts = {prompt_key(prompt): prompt for prompt in ([{"role": "user", "content": text}] for text in texts)}
    leaks = find_leaks(prompts, held_out)
    counts.leaks.update(f"corpus/{kind}" for kind in leaks.values())
    corpus: dict[Literal["train", "validation"], list[str]] = {"train": [], "validation": []}
    for key, prompt in prompts.items():
        if key not in leaks:
            # The shares of test and gate are to learn from: nothing else is measured on a corpus.
            corpus["validation" if split_of(key, config) == "validation" else "train"].append(prompt[0]["content"])
    return corpus


def _split(rows: Mapping[str, Sequence[NumberedRow]], config: DataConfig) -> Splits:
    splits: Splits = {(kind, split): [] for kind, names in NEEDED.items() for split in names}
    splits |= {name: [] for name in ASIDE}
    splits |= {(kind, split): [] for kind in rows if kind == "labels" for split in (*NEEDED["preferences"], "gate")}
    for kind, numbered_rows in rows.items():
        for numbered in numbered_rows:
            split = split_of(numbered.key, config)
            if kind in ("preferences", "labels") and split == "train" and is_for_selection(numbered.key, config):
                split = "selection"
            if split not in TRAINING_SPLITS and is_tie(numbered.row):
                continue  # nobody is right or wrong about it
            if split != "test" and numbered.row.get("annotator") in config.held_out_annotators:
                continue
            splits[kind, split].append(numbered)
    return splits


def _remove_leaks(splits: Splits, counts: Counts, held_out: HeldOutSet | None = None) -> None:
    """Take out of the training splits what appears in an evaluation split of any file, or in an evaluation set."""
    prompts: dict[bool, dict[str, Any]] = {True: {}, False: {}}
    for (_, split), rows in splits.items():
        prompts[split in TRAINING_SPLITS].update({numbered.key: numbered.row["prompt"] for numbered in rows})
    leaks = find_leaks(prompts[True], prompts[False] if held_out is None else held_out.prompts)
    of_set = f" of {held_out.kind}" if held_out else ""
    for (kind, split), rows in splits.items():
        if split in TRAINING_SPLITS:
            counts.leaks.update(f"{kind}/{leaks[numbered.key]}{of_set}" for numbered in rows if numbered.key in leaks)
            splits[kind, split] = [numbered for numbered in rows if numbered.key not in leaks]


def _remove_collisions(splits: Splits, counts: Counts, of_sets: Set[str]) -> None:
    """Prompts that differed in their first turns may be the same once cut; each then stays on one side only.

    Args:
        splits: changed in place.
        counts: of what is removed.
        of_sets: keys of the evaluation sets' prompts, which stay out of the training splits.
    """
    taken: set[str] = set()
    for split in ("test", "gate", "validation", "train", "selection"):
        keys: set[str] = set()
        taken |= of_sets if split in TRAINING_SPLITS else set()
        for kind in (kind for kind in ALL_KINDS if (kind, split) in splits):
            not_here = taken | ({n.key for n in splits[kind, "train"]} if split == "selection" else set())
            kept = [numbered for numbered in splits[kind, split] if numbered.key not in not_here]
            if len(kept) < len(splits[kind, split]):
                counts.leaks[f"{kind}/after_cutting"] += len(splits[kind, split]) - len(kept)
            splits[kind, split] = kept
            keys |= {numbered.key for numbered in kept}
        # Demonstrations and prompts may share their prompts with either half of the training preferences.
        taken |= keys if split not in TRAINING_SPLITS else set()


def _training_texts(splits: Splits) -> Iterator[str]:
    for (kind, split), rows in splits.items():
        if split in TRAINING_SPLITS:
            for numbered in rows:
                for name in TEXT_FIELDS[kind]:
                    yield from (message["content"] for message in numbered.row[name])


def _cut(splits: Splits, context: Context, config: DataConfig, counts: Counts) -> None:
    """Cut prompts at a turn until prompt and response fit, and leave out what teaches nothing in token ids."""
    for (kind, split), rows in splits.items():
        kept = []
        for numbered, fitted in zip(rows, fit_rows(kind, rows, context), strict=True):
            if isinstance(fitted, Fitted):
                kept.append(_count_fitted(kind, numbered, fitted, counts))
            elif isinstance(fitted, str):
                counts.left_out_in_tokens.setdefault(kind, {}).setdefault(fitted, []).append(numbered.line)
            elif config.overlong == "error":
                raise DataError(f"{fitted}; or leave such rows out with data.overlong: drop")
            else:
                counts.too_long[kind] += 1
        splits[kind, split] = kept


def _count_fitted(kind: str, numbered: NumberedRow, fitted: Fitted, counts: Counts) -> NumberedRow:
    counts.lengths_in_tokens.setdefault(f"{kind}/prompt", []).append(fitted.prompt_tokens)
    if fitted.response_tokens:
        counts.lengths_in_tokens.setdefault(f"{kind}/response", []).append(fitted.response_tokens)
    for change in fitted.changes:
        counts.changed_in_tokens.setdefault(kind, {}).setdefault(change, []).append(numbered.line)
    if not fitted.num_dropped_messages:
        return numbered
    counts.cut_dialogues[kind] += 1
    counts.dropped_messages[kind] += fitted.num_dropped_messages
    return NumberedRow(numbered.line, fitted.row, prompt_key(fitted.row["prompt"]))


def _check_not_empty(splits: Splits, config: DataConfig, counts: Counts) -> None:
    test, validation, gate = config.test_fraction, config.validation_fraction, config.gate_fraction
    for kind, split in ((kind, split) for kind, names in NEEDED.items() for split in names):
        selection = config.selection_fraction if kind == "preferences" else 0.0
        shares = {"test": test * (1 - gate), "gate": test * gate, "validation": validation}
        training = 1 - test - validation
        shares |= {"train": training * (1 - selection), "selection": training * selection}
        if not splits[kind, split]:
            raise DataError(empty_split(kind, split, shares[split], counts))

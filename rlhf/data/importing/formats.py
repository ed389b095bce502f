"""Import: somebody's file becomes a data folder, or nothing at all."""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rlhf.data.evaluation_sets import FOLDER as SETS
from rlhf.data.evaluation_sets import find_sets
from rlhf.data.importing.detection import FORMATS
from rlhf.data.importing.reading import RowReader, SourceOptions, open_rows
from rlhf.data.schema import ALL_KINDS, DATASHEET, KINDS, ORIGIN_FIELDS, Row, is_ranking, validate_file, write_rows
from rlhf.files.atomic import install, staged
from rlhf.text.markdown import escape

__all__ = ["FORMATS", "ImportReport", "Sources", "convert_dataset", "import_dataset", "to_json"]

to_json = json.JSONEncoder(ensure_ascii=False).encode
"""The JSON text of a value, as `json.dumps` writes it, without a new encoder for every row."""

_DERIVED = {
    "demonstrations": "No demonstrations were given: they are the chosen responses of the preferences.",
    "prompts": "No prompts were given: they are the prompts of the preferences.",
}


_READ = (*KINDS, "labels")
"""The kinds of a folder's files whose form is recognized; a corpus is text, and is taken as it is."""


@dataclass(frozen=True)
class Sources:
    """The sources of a data folder: paths or hub ids, and how to read each.

    Attributes:
        preferences: preferences, or a folder in our own layout.
        demonstrations: without it the chosen responses are the demonstrations.
        prompts: of anything with prompts; without it the prompts are those of the preferences.
        labels: unpaired feedback.
        options: by kind; a kind without options is recognized by its fields.
        evaluation: evaluation sets by name.
    """

    preferences: str
    demonstrations: str | None = None
    prompts: str | None = None
    labels: str | None = None
    options: Mapping[str, SourceOptions] = dataclasses.field(default_factory=dict)
    evaluation: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def of_folder(self) -> "Sources":
        """The files of a folder in our own layout, where preferences is one; else the same."""
        folder = Path(self.preferences)
        if not (folder / "preferences.jsonl").is_file():
            return self
        files = {kind: str(folder / f"{kind}.jsonl") for kind in _READ if (folder / f"{kind}.jsonl").is_file()}
        given = {kind: getattr(self, kind) for kind in _READ if getattr(self, kind) is not None}
        sets = {name: str(path) for name, path in find_sets(folder).items()} | {**self.evaluation}
        return dataclasses.replace(self, **{**files, **given, "preferences": files["preferences"], "evaluation": sets})


@dataclass(frozen=True)
class ImportReport:
    """The result of an import.

    Attributes:
        destination: the data folder.
        changed: False where the same content was there already.
        counts: rows written, by kind.
        sources: what was read and what was left out, the preferences first.
        derived: sentences about rows that were made from other rows, and about duplicates and labels.
    """

    destination: Path
    changed: bool
    counts: dict[str, int]
    sources: tuple[RowReader, ...]
    derived: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The report in lines for a person."""
        lines = [f"{count} {kind}" for kind, count in self.counts.items()]
        for reader in self.sources:
            how = "recognized by its fields" if reader.options.format == "auto" else "as given"
            lines.append(f"{reader.source.name}: format {reader.form.format} ({how}), {reader.num_read} rows read")
            lines += [f"  {line}" for line in (*reader.lines, *reader.left_out, *reader.example)]
        return "\n".join([*lines, *self.derived])


def import_dataset(
    sources: Sources | str,
    destination: Path,
    *,
    licence: str | None = None,
    guidelines: str | None = None,
    replace: bool = False,
) -> ImportReport:
    """Turn preferences in somebody's convention into a data folder.

    Args:
        sources: what is read; a path or hub id of preferences alone.
        destination: data folder to make.
        licence: for the datasheet.
        guidelines: text of the annotation guidelines, for the datasheet.
        replace: replace other data at the destination.

    Raises:
        DataError: something cannot be read, or the destination holds other data. Nothing is written then.
    """
    with staged(destination) as folder:
        report = convert_dataset(sources, folder, licence=licence, guidelines=guidelines)
        changed = install(folder, destination, replace)
    return dataclasses.replace(report, destination=destination, changed=changed)


def convert_dataset(
    sources: Sources | str, folder: Path, *, licence: str | None = None, guidelines: str | None = None
) -> ImportReport:
    """Fill an empty folder with the files of a data folder. The arguments are those of `import_dataset`.

    Raises:
        DataError: something cannot be read.
    """
    sources = Sources(sources) if isinstance(sources, str) else sources
    corpus = Path(sources.preferences) / "corpus.jsonl"
    sources = sources.of_folder()
    given = {kind: getattr(sources, kind) for kind in ("preferences", "demonstrations", "prompts", "labels")}
    readers = {k: open_rows(source, sources.options.get(k), k) for k, source in given.items() if source is not None}
    extras = {kind: reader for kind, reader in readers.items() if kind != "preferences"}
    counts, num_duplicates = _write_rows(folder, readers["preferences"], extras)
    if corpus.is_file():
        counts["corpus"] = validate_file(corpus, "corpus")
        shutil.copyfile(corpus, folder / corpus.name)
    sets = {name: open_rows(source, sources.options.get(SETS), SETS) for name, source in sources.evaluation.items()}
    for name, reader in sets.items():
        (folder / SETS).mkdir(exist_ok=True)
        write_rows(folder / SETS / f"{name}.jsonl", reader.rows())
        counts[f"{SETS}/{name}"] = reader.num_rows
    derived = _derived(extras, num_duplicates)
    report = ImportReport(folder, True, counts, (*readers.values(), *sets.values()), derived)
    text = _datasheet(report, licence, guidelines)
    (folder / DATASHEET).write_text(text, encoding="utf-8", newline="\n")
    return report


def _write_rows(folder: Path, main: RowReader, extras: dict[str, RowReader]) -> tuple[dict[str, int], int]:
    """Write the files; gives the rows by kind, and how many preferences stand there more than once."""
    counts = dict.fromkeys((kind for kind in ALL_KINDS if kind in KINDS or kind in extras), 0)
    # Among a million hashes of 64 bits two collide once in 37 million files, and the hashes only count duplicates.
    seen: set[int] = set()
    with ExitStack() as stack:
        paths = {kind: folder / f"{kind}.jsonl" for kind in counts}
        files = {k: stack.enter_context(p.open("w", encoding="utf-8", newline="\n")) for k, p in paths.items()}

        def write(kind: str, texts: Mapping[str, str]) -> None:
            """Write a row whose values are JSON already, since the rows made of a preference share them."""
            files[kind].write("{" + ", ".join([f'"{name}": {text}' for name, text in texts.items()]) + "}\n")
            counts[kind] += 1

        for row in main.rows():
            texts = {name: to_json(value) for name, value in row.items()}
            write("preferences", texts)
            seen.add(hash(tuple(texts[name] for name in texts if name not in ORIGIN_FIELDS)))
            for kind, made in _made_of(row, texts):
                if kind not in extras:
                    write(kind, made)
        if not main.example:
            raise main.nothing_left()
        for kind, extra in extras.items():
            for row in extra.rows():
                write(kind, {name: to_json(value) for name, value in row.items()})
    return counts, counts["preferences"] - len(seen)


def _made_of(row: Row, texts: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The prompt of a preference, and as demonstrations its best answers, where not all of them are."""
    yield "prompts", {"prompt": texts["prompt"]}
    if not is_ranking(row):
        yield "demonstrations", {"prompt": texts["prompt"], "completion": texts["chosen"]}
    elif len(set(row["ranks"])) > 1:
        best = [response for rank, response in zip(row["ranks"], row["responses"], strict=True) if rank == 1]
        for response in best:
            yield "demonstrations", {"prompt": texts["prompt"], "completion": to_json(response)}


def _derived(extras: dict[str, RowReader], num_duplicates: int) -> tuple[str, ...]:
    sentences = [sentence for kind, sentence in _DERIVED.items() if kind not in extras]
    demonstrations = extras.get("demonstrations")
    if demonstrations is not None and demonstrations.form.kind == "labels":
        name = demonstrations.source.name
        sentences.append(f"{name} is unpaired feedback: only the responses marked as wanted were taken.")
    if "labels" in extras:
        sentences.append("labels.jsonl is what `method: kto` learns from; other methods do not read it.")
    if num_duplicates:
        sentences.append(
            f"{num_duplicates} preferences repeat earlier ones; data preparation keeps each preference once."
        )
    return tuple(sentences)


def _datasheet(report: ImportReport, licence: str | None, guidelines: str | None) -> str:
    """The datasheet: origin, content and rows left out, as Markdown. The same for the same input."""
    not_told = "Not given. Write here what the annotators were told, who they were and how they were paid."
    left_out = [f"- {escape(f'{reader.source.name}: {line}')}" for reader in report.sources for line in reader.left_out]
    sections = {
        "Origin": [line for reader in report.sources for line in _origin(reader)],
        "Composition": [
            *(f"- {kind}.jsonl: {count} rows" for kind, count in report.counts.items()),
            *(f"- {escape(sentence)}" for sentence in report.derived),
        ],
        "Left out on import": left_out or ["Nothing."],
        "Annotation guidelines": [(guidelines or not_told).strip()],
        "Licence": [(licence or "Not given. Write here what may be done with the data.").strip()],
    }
    parts = [f"## {title}\n" + "".join(f"{line}\n" for line in lines) for title, lines in sections.items()]
    return "\n".join(["# Data sheet\n", *parts])


def _origin(reader: RowReader) -> list[str]:
    source = reader.source
    digest = f", sha256 {source.sha256}" if source.sha256 else ""
    return [
        f"- {reader.wanted}: {escape(source.name)}{digest}; {reader.num_read} rows read, format {reader.form.format}",
        *(f"  - {escape(line)}" for line in reader.lines),
    ]

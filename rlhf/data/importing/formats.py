"""Import: somebody's file becomes a data folder, or nothing at all."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rlhf.data.importing.datasheet import SourceReport, render
from rlhf.data.importing.detection import FORMATS
from rlhf.data.importing.reading import RowReader, SourceOptions, open_rows
from rlhf.data.schema import ALL_KINDS, DATASHEET, KINDS, Row, is_ranking
from rlhf.files.atomic import install, staged

__all__ = ["FORMATS", "ImportReport", "Sources", "convert_dataset", "import_dataset", "to_json"]

to_json = json.JSONEncoder(ensure_ascii=False).encode
"""What `json.dumps` writes, without making an encoder for every row."""

_DERIVED = {
    "demonstrations": "No demonstrations were given: they are the chosen responses of the preferences.",
    "prompts": "No prompts were given: they are the prompts of the preferences.",
}


@dataclass(frozen=True)
class Sources:
    """What a data folder is made of: paths or hub ids, and how each is to be read.

    Attributes:
        preferences: preferences, or a folder in our own layout.
        demonstrations: without it the chosen responses are the demonstrations.
        prompts: of anything with prompts; without it the prompts are those of the preferences.
        labels: unpaired feedback.
        options: by kind; what is not there is found out.
    """

    preferences: str
    demonstrations: str | None = None
    prompts: str | None = None
    labels: str | None = None
    options: Mapping[str, SourceOptions] = dataclasses.field(default_factory=dict)

    def open(self, kind: str) -> RowReader | None:
        """The reading of a kind; None where no source was given for it.

        Raises:
            DataError: the source is not there, or its form is not known.
        """
        source: str | None = getattr(self, kind)
        return None if source is None else open_rows(source, self.options.get(kind, SourceOptions()), kind)

    def of_folder(self) -> "Sources":
        """The files of a folder in our own layout, where preferences is one; else the same."""
        folder = Path(self.preferences)
        if not (folder / "preferences.jsonl").is_file():
            return self
        files = {kind: str(folder / f"{kind}.jsonl") for kind in ALL_KINDS if (folder / f"{kind}.jsonl").is_file()}
        given = {kind: getattr(self, kind) for kind in ALL_KINDS if getattr(self, kind) is not None}
        return dataclasses.replace(self, **{**files, **given, "preferences": files["preferences"]})


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        destination: the data folder.
        changed: False where the same content was there already.
        counts: rows written, by kind.
        sources: what was read and what was left out, the preferences first.
        derived: sentences that say which rows were made from others, and what else is to be known.
    """

    destination: Path
    changed: bool
    counts: dict[str, int]
    sources: tuple[SourceReport, ...]
    derived: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The report in lines for a person."""
        lines = [f"{count} {kind}" for kind, count in self.counts.items()]
        for source in self.sources:
            how = "found out from its fields" if source.detected else "as told"
            lines.append(f"{source.name}: format {source.format} ({how}), {source.num_read} rows read")
            lines += [f"  {line}" for line in source.lines]
            lines += [f"  {line}" for line in (*source.left_out, *source.example)]
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
    sources = (Sources(sources) if isinstance(sources, str) else sources).of_folder()
    main = sources.open("preferences")
    assert main is not None
    extras = {kind: reading for kind in ("demonstrations", "prompts", "labels") if (reading := sources.open(kind))}
    counts, num_duplicates = _write_rows(folder, main, extras)
    reports = (main.report(), *(extra.report() for extra in extras.values()))
    derived = _derived(extras, num_duplicates)
    (folder / DATASHEET).write_text(
        render(reports, counts, derived, licence, guidelines), encoding="utf-8", newline="\n"
    )
    return ImportReport(folder, True, counts, reports, derived)


def _write_rows(folder: Path, main: RowReader, extras: dict[str, RowReader]) -> tuple[dict[str, int], int]:
    """Write the files; gives the rows by kind, and how many preferences stand there more than once."""
    kinds = [kind for kind in ALL_KINDS if kind in KINDS or kind in extras]
    counts = dict.fromkeys(kinds, 0)
    derived = [kind for kind in _DERIVED if kind not in extras]
    # Of a million hashes of 64 bits two are the same once in 37 million files; they only count.
    seen: set[int] = set()
    with ExitStack() as stack:
        writers = {kind: _writer(stack.enter_context(_open(folder / f"{kind}.jsonl")), kind, counts) for kind in kinds}
        for row in main.rows():
            texts = {name: to_json(value) for name, value in row.items()}
            writers["preferences"](texts)
            seen.add(hash(tuple(texts[name] for name in texts if name != "source")))
            for kind, made in _made_of(row, texts):
                if kind in derived:
                    writers[kind](made)
        if main.example is None:
            raise main.nothing_left()
        for kind, extra in extras.items():
            for row in extra.rows():
                writers[kind]({name: to_json(value) for name, value in row.items()})
    return counts, counts["preferences"] - len(seen)


def _open(path: Path) -> IO[str]:
    return path.open("w", encoding="utf-8", newline="\n")


def _writer(file: IO[str], kind: str, counts: dict[str, int]) -> Callable[[Mapping[str, str]], None]:
    """Writes rows whose values are JSON already, since the rows made of a preference share them."""

    def write(texts: Mapping[str, str]) -> None:
        file.write("{" + ", ".join([f'"{name}": {text}' for name, text in texts.items()]) + "}\n")
        counts[kind] += 1

    return write


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
        sentences.append("labels.jsonl is kept for methods that learn from unpaired feedback; PPO does not read it.")
    if num_duplicates:
        sentences.append(
            f"{num_duplicates} preferences stand there more than once; data preparation keeps one of each."
        )
    return tuple(sentences)

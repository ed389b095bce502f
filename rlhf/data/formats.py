"""Import: somebody's file becomes a data folder, or nothing at all."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rlhf.data.conversions import CONVERTERS, convert, detect, unknown_format
from rlhf.data.datasheet import Dropped, SourceReport, render
from rlhf.data.dialogues import RowDroppedError, RowRefusedError
from rlhf.data.readers import RowSource, open_source
from rlhf.data.schema import DATASHEET, KINDS, Row, check_row
from rlhf.data.staging import install, staged
from rlhf.errors import DataError

FORMATS = ("auto", *CONVERTERS)
# The fields of the rows that are made of preferences, where none are given.
DERIVED = {"demonstrations": {"prompt": "prompt", "completion": "chosen"}, "prompts": {"prompt": "prompt"}}
to_json = json.JSONEncoder(ensure_ascii=False).encode
"""What `json.dumps` writes, without making an encoder for every row."""


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        destination: the data folder.
        changed: False where the same content was there already.
        counts: rows written, by kind.
        sources: what was read and what was left out, the preferences first.
        derived: sentences that say which rows were made from others.
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
            for reason, dropped in sorted(source.dropped.items()):
                lines.append(f"  {dropped.count} left out, because {reason}: {source.unit}s {dropped.named()}")
        return "\n".join([*lines, *self.derived])


@dataclass
class Reading:
    """A source being read: the rows of ours that it yields, and the count of those left out.

    Attributes:
        source: the file or data set.
        format: a key of `CONVERTERS`.
        detected: the format was found out from the fields of the first row.
        kind: of its rows; empty before the first one.
        num_read: rows read so far.
        num_rows: rows of ours that they gave.
        dropped: rows left out so far, by reason.
    """

    source: RowSource
    format: str
    detected: bool
    kind: str = ""
    num_read: int = 0
    num_rows: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)

    def rows(self) -> Iterator[Row]:
        """All rows, each checked, of whatever kind the source holds.

        Raises:
            DataError: a row is at fault, or none is left.
        """
        for number, row in self.source.rows():
            self.num_read += 1
            yield from self._converted(number, row)
        if not self.kind:
            reasons = "; ".join(f"{dropped.count} because {reason}" for reason, dropped in self.dropped.items())
            raise DataError(
                f"{self.source.name}: no row is left ({reasons or 'there are none'}); give another file or format"
            )

    def _converted(self, number: int, row: Row) -> Iterator[Row]:
        where = self.source.where(number)
        try:
            made = convert(row, self.format)
        except RowDroppedError as reason:
            self.dropped.setdefault(str(reason), Dropped()).add(number)
            return
        except RowRefusedError as reason:
            raise DataError(f"{where}: {reason}; mend the row, or give another --format than {self.format}") from None
        for kind, ours in made:
            if kind != (self.kind or kind):
                raise DataError(f"{where}: a row of {kind} in a file of {self.kind}; put them into files of their own")
            self.kind = kind
            check_row(ours, kind, where)
            self.num_rows += 1
            yield ours

    def rows_of(self, kind: str) -> Iterator[Row]:
        """All rows as those of one kind; where a preference is from is the file unless it says so itself.

        Raises:
            DataError: as in `rows`, or the source holds another kind, which this one cannot be made from.
        """
        name = self.source.name.split(".", maxsplit=1)[0]
        for row in self.rows():
            if kind == "prompts":
                yield {"prompt": row["prompt"]}
            elif kind != self.kind:
                raise self._other_kind(kind)
            elif kind == "demonstrations":
                yield {"prompt": row["prompt"], "completion": row["completion"]}
            else:
                yield row if "source" in row else {**row, "source": name}

    def _other_kind(self, kind: str) -> DataError:
        if kind == "preferences":
            return DataError(
                f"{self.source.name}: the file holds {self.kind} and no preferences, and a data folder needs "
                f"preferences; import a file of preferences, and give this one with --{self.kind}"
            )
        return DataError(f"{self.source.name}: the file holds {self.kind}, no {kind}; give another with --{kind}")

    def report(self, kind: str) -> SourceReport:
        """What was read."""
        return SourceReport(
            self.source.name,
            self.source.sha256,
            kind,
            self.format,
            self.detected,
            self.source.unit,
            self.num_read,
            self.dropped,
        )


def import_dataset(
    source: str,
    destination: Path,
    format: str = "auto",
    *,
    demonstrations: str | None = None,
    prompts: str | None = None,
    licence: str | None = None,
    guidelines: str | None = None,
    split: str = "train",
    replace: bool = False,
) -> ImportReport:
    """Turn preferences in somebody's convention into a data folder.

    Args:
        source: file, folder or hub id of the preferences.
        destination: data folder to make.
        format: one of `FORMATS`; `auto` looks at the fields of the first row.
        demonstrations: the same, of demonstrations. Without it the chosen responses are the demonstrations.
        prompts: the same, of anything with prompts. Without it the prompts are those of the preferences.
        licence: for the datasheet.
        guidelines: text of the annotation guidelines, for the datasheet.
        split: split of a hub data set.
        replace: replace other data at the destination.

    Raises:
        DataError: something cannot be read, or the destination holds other data. Nothing is written then.
    """
    with staged(destination) as folder:
        report = convert_dataset(
            source,
            folder,
            format,
            demonstrations=demonstrations,
            prompts=prompts,
            licence=licence,
            guidelines=guidelines,
            split=split,
        )
        changed = install(folder, destination, replace)
    return dataclasses.replace(report, destination=destination, changed=changed)


def convert_dataset(
    source: str,
    folder: Path,
    format: str = "auto",
    *,
    demonstrations: str | None = None,
    prompts: str | None = None,
    licence: str | None = None,
    guidelines: str | None = None,
    split: str = "train",
) -> ImportReport:
    """Fill an empty folder with the files of a data folder. The arguments are those of `import_dataset`.

    Raises:
        DataError: something cannot be read.
    """
    source, demonstrations, prompts = _of_folder(source, demonstrations, prompts)
    main = open_rows(source, format, split)
    extras = {
        kind: open_rows(extra, "auto", split)
        for kind, extra in (("demonstrations", demonstrations), ("prompts", prompts))
        if extra is not None
    }
    counts = _write_rows(folder, main, extras)
    reports = (main.report("preferences"), *(extra.report(kind) for kind, extra in extras.items()))
    derived = _derived(extras)
    (folder / DATASHEET).write_text(
        render(reports, counts, derived, licence, guidelines), encoding="utf-8", newline="\n"
    )
    return ImportReport(folder, True, counts, reports, derived)


def _of_folder(source: str, demonstrations: str | None, prompts: str | None) -> tuple[str, str | None, str | None]:
    """The three files of a folder in our own layout; anything else as it is."""
    folder = Path(source)
    if not (folder / "preferences.jsonl").is_file():
        return source, demonstrations, prompts
    present = {kind: str(folder / f"{kind}.jsonl") for kind in KINDS if (folder / f"{kind}.jsonl").is_file()}
    return (
        present["preferences"],
        demonstrations or present.get("demonstrations"),
        prompts or present.get("prompts"),
    )


def open_rows(source: str, format_name: str = "auto", split: str = "train") -> Reading:
    """Find a source and the format of its rows.

    Raises:
        DataError: it is not there, or its format is not known.
    """
    if format_name not in FORMATS:
        raise unknown_format(format_name)
    rows = open_source(source, split)
    if format_name != "auto":
        return Reading(rows, format_name, detected=False)
    with closing(rows.rows()) as reading:
        _, first = next(reading, (0, None))
    if first is None:
        raise DataError(f"{rows.name}: there are no rows; give at least one")
    fitting = detect(first)
    if len(fitting) != 1:
        fields = ", ".join(f'"{name}"' for name in first)
        found = f"may be {' or '.join(fitting)}" if fitting else "is in no known format"
        raise DataError(
            f"{rows.name}: a row with the fields {fields} {found}; give --format, one of {', '.join(CONVERTERS)}"
        )
    return Reading(rows, fitting[0], detected=True)


def _write_rows(folder: Path, main: Reading, extras: dict[str, Reading]) -> dict[str, int]:
    counts = dict.fromkeys(KINDS, 0)
    with ExitStack() as stack:
        files = {
            kind: stack.enter_context((folder / f"{kind}.jsonl").open("w", encoding="utf-8", newline="\n"))
            for kind in KINDS
        }
        derived = [kind for kind in DERIVED if kind not in extras]
        for row in main.rows_of("preferences"):
            texts = {name: to_json(value) for name, value in row.items()}
            _write(files["preferences"], texts)
            counts["preferences"] += 1
            for kind in derived:
                _write(files[kind], {name: texts[field] for name, field in DERIVED[kind].items()})
                counts[kind] += 1
        for kind, extra in extras.items():
            for row in extra.rows_of(kind):
                files[kind].write(to_json(row) + "\n")
                counts[kind] += 1
    return counts


def _write(file: IO[str], texts: dict[str, str]) -> None:
    """Write a row whose values are JSON already, since the rows made of a preference share them."""
    file.write("{" + ", ".join([f'"{name}": {text}' for name, text in texts.items()]) + "}\n")


def _derived(extras: dict[str, Reading]) -> tuple[str, ...]:
    sentences = {
        "demonstrations": "No demonstrations were given: they are the chosen responses of the preferences.",
        "prompts": "No prompts were given: they are the prompts of the preferences.",
    }
    kto = [extra for extra in extras.values() if extra.format == "kto"]
    unpaired = [
        f"{extra.source.name} is unpaired feedback: only the responses marked as wanted were taken." for extra in kto
    ]
    return (*(sentence for kind, sentence in sentences.items() if kind not in extras), *unpaired)

"""Import: somebody's file becomes a data folder, or nothing at all."""

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
class _Reading:
    """A source being read: the rows of ours that it yields, and the count of those left out."""

    source: RowSource
    format: str
    detected: bool
    kind: str = ""
    num_read: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)

    def rows(self) -> Iterator[Row]:
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
            yield ours

    def report(self, kind: str) -> SourceReport:
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
    if format not in FORMATS:
        raise unknown_format(format)
    source, demonstrations, prompts = _of_folder(source, demonstrations, prompts)
    main = _open(source, format, split)
    extras = {
        kind: _open(extra, "auto", split)
        for kind, extra in (("demonstrations", demonstrations), ("prompts", prompts))
        if extra is not None
    }
    with staged(destination) as folder:
        counts = _write_rows(folder, main, extras)
        reports = (main.report("preferences"), *(extra.report(kind) for kind, extra in extras.items()))
        derived = _derived(extras)
        (folder / DATASHEET).write_text(
            render(reports, counts, derived, licence, guidelines), encoding="utf-8", newline="\n"
        )
        changed = install(folder, destination, replace)
    return ImportReport(destination, changed, counts, reports, derived)


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


def _open(source: str, format_name: str, split: str) -> _Reading:
    rows = open_source(source, split)
    if format_name != "auto":
        return _Reading(rows, format_name, detected=False)
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
    return _Reading(rows, fitting[0], detected=True)


def _write_rows(folder: Path, main: _Reading, extras: dict[str, _Reading]) -> dict[str, int]:
    counts = dict.fromkeys(KINDS, 0)
    source = main.source.name.split(".", maxsplit=1)[0]
    with ExitStack() as stack:
        files = {
            kind: stack.enter_context((folder / f"{kind}.jsonl").open("w", encoding="utf-8", newline="\n"))
            for kind in KINDS
        }
        for row in main.rows():
            _require_preferences(main)
            _write(files["preferences"], {**row, "source": row.get("source", source)})
            counts["preferences"] += 1
            for kind in _without(extras):
                _write(files[kind], _from_preference(row, kind))
                counts[kind] += 1
        for kind, extra in extras.items():
            for row in extra.rows():
                _write(files[kind], _from_extra(row, kind, extra))
                counts[kind] += 1
    return counts


def _require_preferences(main: _Reading) -> None:
    if main.kind != "preferences":
        raise DataError(
            f"{main.source.name}: the file holds {main.kind} and no preferences, and a data folder needs preferences; "
            f"import a file of preferences, and give this one with --{main.kind}"
        )


def _without(extras: dict[str, _Reading]) -> list[str]:
    return [kind for kind in ("demonstrations", "prompts") if kind not in extras]


def _from_preference(row: Row, kind: str) -> Row:
    return {"prompt": row["prompt"]} | ({"completion": row["chosen"]} if kind == "demonstrations" else {})


def _from_extra(row: Row, kind: str, extra: _Reading) -> Row:
    if kind == "prompts":
        return {"prompt": row["prompt"]}
    if extra.kind != "demonstrations":
        raise DataError(
            f"{extra.source.name}: the file holds {extra.kind}, no demonstrations; give another with --demonstrations"
        )
    return {"prompt": row["prompt"], "completion": row["completion"]}


def _write(file: IO[str], row: Row) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _derived(extras: dict[str, _Reading]) -> tuple[str, ...]:
    sentences = {
        "demonstrations": "No demonstrations were given: they are the chosen responses of the preferences.",
        "prompts": "No prompts were given: they are the prompts of the preferences.",
    }
    kto = [extra for extra in extras.values() if extra.format == "kto"]
    unpaired = [
        f"{extra.source.name} is unpaired feedback: only the responses marked as wanted were taken." for extra in kto
    ]
    return (*(sentences[kind] for kind in _without(extras)), *unpaired)

"""New versions of data/: a file imported in its place, or feedback added to it."""

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rlhf.config.data import DataConfig
from rlhf.data.evaluation_sets import FOLDER as SETS
from rlhf.data.evaluation_sets import read_set
from rlhf.data.importing.formats import ImportReport, Sources, convert_dataset, to_json
from rlhf.data.importing.reading import RowReader, SourceOptions, open_rows
from rlhf.data.row_hash import identity
from rlhf.data.schema import ALL_KINDS, DATASHEET, Row, check_files, read_rows, validate_file, write_rows
from rlhf.data.versions.repository import TRACKED, check_repository
from rlhf.data.versions.resolve import resolve
from rlhf.data.versions.transaction import Version, new_version, publish
from rlhf.errors import DataError
from rlhf.text.markdown import escape, one_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Addition:
    """A file of feedback to be added.

    Attributes:
        path: file, folder or hub id.
        kind: what is taken of it: preferences, demonstrations, prompts, labels, or evaluation/NAME.
        options: how it is to be read.
    """

    path: str
    kind: str = "preferences"
    options: SourceOptions = field(default_factory=SourceOptions)


@dataclass(frozen=True)
class AppendResult:
    """The outcome of an addition.

    Attributes:
        counts: rows by kind, without those that were there already.
        notes: a sentence a file, as the datasheet has it.
        examples: lines that show one row of each file as it will be used.
        version: what data/ is now; None where nothing was new.
    """

    counts: Counter[str]
    notes: tuple[str, ...]
    examples: tuple[str, ...]
    version: Version | None


def import_version(
    root: Path,
    sources: Sources,
    *,
    licence: str | None = None,
    guidelines: str | None = None,
    replace: bool,
    tell: Callable[[ImportReport], None] = lambda report: None,
) -> ImportReport:
    """Make data/ from a file, and track it with DVC.

    Args:
        root: the project's root, a git and DVC repository.
        sources: what is read.
        licence: for the datasheet.
        guidelines: text of the annotation guidelines, for the datasheet.
        replace: replace other data in data/.
        tell: told what was read before anything is replaced.

    Raises:
        DataError: something cannot be read, data/ holds other data, or DVC refuses. Nothing has changed then.
    """
    check_repository(root)
    with new_version(root) as filled:
        report = convert_dataset(sources, filled, licence=licence, guidelines=guidelines)
        tell(report)
        publish(filled, root, desc=one_line(f"Imported from {report.sources[0].source.name}"), replace=replace)
    return report


def preview(sources: Sources) -> ImportReport:
    """The report of an import that keeps nothing.

    Raises:
        DataError: something cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="rlhf-") as folder:
        return convert_dataset(sources, Path(folder))


def add_version(
    root: Path,
    additions: Sequence[Addition],
    tell: Callable[[tuple[str, ...]], None] = lambda notes: None,
    dry_run: bool = False,
) -> AppendResult:
    """Add feedback to data/, say so in its datasheet, and track that as a new version with DVC.

    All files are read before anything is changed. A row that is there already is not added again, whatever its
    `source`.

    Args:
        root: the project's root.
        additions: what to add.
        tell: told what was read, a note a file and a row of each, before anything is replaced.
        dry_run: stop there.

    Raises:
        DataError: a file cannot be read, data/ cannot be had, differs from data.dvc or lacks a file, or DVC refuses.
    """
    with new_version(root) as filled:
        resolve(DataConfig(), root)
        counts, notes, examples = add_rows(additions, root, filled)
        tell((*notes, *examples))
        if dry_run or not counts.total():
            return AppendResult(counts, notes, examples, None)
        version = publish(filled, root, desc=_description(additions, counts), replace=True)
    return AppendResult(counts, notes, examples, version)


def replace_round(root: Path, name: str, rows: Sequence[Row], note: str, kind: str = "preferences") -> Version | None:
    """Make the rows of a round of feedback those that are given, and track that as a new version with DVC.

    Rows of the round that are there already go: an answer that was changed since, or an annotator who is left out now,
    leaves nothing behind. So a round may be collected as often as one likes.

    Args:
        root: the project's root.
        name: of the round.
        rows: its rows.
        note: Markdown for the datasheet, in the place of what it said of the round before.
        kind: of the rows, preferences or demonstrations.

    Returns:
        What data/ is now; None where it holds just these rows and this note already.

    Raises:
        DataError: data/ cannot be had, differs from data.dvc or lacks a file, or DVC refuses.
    """
    with new_version(root) as filled:
        resolve(DataConfig(), root)
        _copy_data(root, filled)
        path = filled / f"{kind}.jsonl"
        there = [row for _, row in read_rows(path, kind)]
        before = [row for row in there if row.get("round") == name]
        kept = [row for row in there if row.get("round") != name]
        sheet = filled / DATASHEET
        text = sheet.read_text(encoding="utf-8")
        noted = _with_section(text, f"{'Round' if kind == 'preferences' else 'Revisions'} {name}", note)
        same = list(map(to_json, before)) == list(map(to_json, rows))
        if same and (noted == text or not rows):
            return None
        if not kept and not rows:
            raise DataError(f"round {name} has nothing now, and data/ has no other {kind}; data/ stays as it is")
        write_rows(path, [*kept, *rows])
        validate_file(path, kind)
        sheet.write_text(noted, encoding="utf-8")
        return publish(filled, root, desc=one_line(f"Round {name}: {len(rows)} {kind}"), replace=True)


def _with_section(text: str, title: str, content: str) -> str:
    """A Markdown document with a section of its second level replaced, or added at the end."""
    head = f"## {title}\n"
    begin = f"\n{text}".find(f"\n{head}")
    if begin < 0:
        return f"{text.rstrip()}\n\n{head}\n{content.strip()}\n"
    end = text.find("\n## ", begin + 1)
    rest = text[end + 1 :] if end >= 0 else ""
    return f"{text[:begin]}{head}\n{content.strip()}\n" + (f"\n{rest}" if rest else "")


def _copy_data(root: Path, folder: Path) -> None:
    """Copy data/ to an empty folder. Files that DVC linked from its cache must not be changed in place."""
    check_files(root / TRACKED)
    shutil.copytree(root / TRACKED, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)


def add_rows(
    additions: Sequence[Addition], root: Path, folder: Path
) -> tuple[Counter[str], tuple[str, ...], tuple[str, ...]]:
    """Copy data/ to an empty folder, append what its files do not hold, and say so in the datasheet.

    Returns:
        Rows added by kind, a sentence a file, and lines that show a row of each.
    """
    _copy_data(root, folder)
    counts: Counter[str] = Counter()
    notes: list[str] = []
    examples: list[str] = []
    of_sets = dict.fromkeys(addition.kind for addition in additions if addition.kind not in ALL_KINDS)
    for kind in (*ALL_KINDS, *of_sets):
        wanted = [addition for addition in additions if addition.kind == kind]
        path = folder / f"{kind}.jsonl"
        path.parent.mkdir(exist_ok=True)
        there = read_set(path) if kind in of_sets else read_rows(path, kind)
        known = {identity(row) for _, row in there} if wanted and path.is_file() else set()
        for addition in wanted:
            reading = open_rows(addition.path, addition.options, SETS if kind in of_sets else kind)
            added = _append_rows(path, reading, known)
            counts[kind] += added
            notes.append(_note(reading, kind, added))
            examples += reading.example
            logger.info("feedback of %s", notes[-1])
    if counts.total():
        today = datetime.now(UTC).date().isoformat()
        _append(folder / DATASHEET, "".join([f"\n## Added {today}\n", *(f"- {escape(note)}\n" for note in notes)]))
    return counts, tuple(notes), tuple(examples)


def _append_rows(path: Path, reading: RowReader, known: set[bytes]) -> int:
    path.touch()  # a folder may have no labels yet
    _append(path, "")
    added = 0
    with path.open("a", encoding="utf-8", newline="\n") as file:
        for row in reading.rows():
            digest = identity(row)
            if digest not in known:
                known.add(digest)
                file.write(to_json(row) + "\n")
                added += 1
    return added


def _append(path: Path, text: str) -> None:
    """Append whole lines, also to a file whose last one has no end."""
    with path.open("r+b") as file:
        if file.seek(0, 2):
            file.seek(-1, 2)
            file.write(b"" if file.read() == b"\n" else b"\n")
        file.write(text.encode())


def _note(reading: RowReader, kind: str, added: int) -> str:
    source = reading.source
    digest = f", sha256 {source.sha256}" if source.sha256 else ""
    held = reading.num_rows - added
    parts = [f"{added} {kind} added", *([f"{held} there already"] if held else []), *reading.left_out, *reading.lines]
    return f"{source.name}{digest}, format {reading.form.format}: {'; '.join(parts)}"


def _description(additions: Sequence[Addition], counts: Counter[str]) -> str:
    rows = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    names = ", ".join(dict.fromkeys(Path(addition.path).name for addition in additions))
    return one_line(f"Added {rows} of {names}, {datetime.now(UTC).date().isoformat()}")


def check_given(additions: Sequence[Addition]) -> None:
    """Refuse to add nothing.

    Raises:
        DataError: no file was named.
    """
    if not additions:
        raise DataError(
            "there is nothing to add; name a file of preferences, or give --demonstrations, --prompts, --labels or "
            "--evaluation"
        )

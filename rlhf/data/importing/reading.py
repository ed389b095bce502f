"""A source being read: rows of ours, and a count of those left out and why."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice

from rlhf.data.importing.cells import decoded, find_spelled, spells_messages
from rlhf.data.importing.columns import ROLES, SURVEYED_ROWS, GivenColumns, survey
from rlhf.data.importing.conversions import wanted_as_demonstration
from rlhf.data.importing.datasheet import Dropped, SourceReport
from rlhf.data.importing.detection import FORMATS, check_column, other_kind, settle_form, unknown_format
from rlhf.data.importing.dialogues import EMPTY_RESPONSE, HALF_A_PAIR, SAME_RESPONSES, RowDroppedError
from rlhf.data.importing.exports import flat_record, is_record
from rlhf.data.importing.form import Form, Numbered
from rlhf.data.importing.readers import Rows, RowSource, open_source
from rlhf.data.importing.verdicts import UNREADABLE
from rlhf.data.schema import Row, check_row, is_ranking, pairs_of
from rlhf.errors import DataError

MAX_DROPPED = 0.05
"""Share of a file's rows that may be left out because they cannot be understood or used."""
# Understood, and nothing to learn from. Of PandaLM's rows 5% have an empty answer; where there are many more, a column
# is misread.
_NOTHING_TO_LEARN = (EMPTY_RESPONSE, SAME_RESPONSES)
_MAX_NOTHING, _FEW = 0.2, 5
# How others name who judged; taken for `annotator` where a file has no column of that name.
_ANNOTATORS = ("annotator_id", "worker", "worker_id", "rater", "rater_id", "labeler", "labeler_id", "annotator_name")


@dataclass(frozen=True)
class SourceOptions:
    """How a person says that a source is to be read.

    Attributes:
        format: one of `FORMATS`.
        columns: what its columns hold.
        max_dropped: share of its rows that may be left out because they cannot be understood or used.
        split: of a hub data set.
    """

    format: str = "auto"
    columns: GivenColumns = field(default_factory=GivenColumns)
    max_dropped: float = MAX_DROPPED
    split: str = "train"


@dataclass
class RowReader:
    """A source being read: the rows of ours that it yields, and the count of those left out.

    Attributes:
        source: the file or data set.
        form: how its rows are read.
        options: what a person said of it.
        wanted: the kind of rows that is asked for.
        num_read: rows read so far.
        num_rows: rows of ours that they gave.
        spelled: the columns whose texts spell messages or lists.
        are_records: its rows are an export's records, whose fields and responses stand apart.
        dropped: rows left out so far, by reason.
        composition: pairs, rankings, pairs of rankings, and ties so far.
        columns: the columns that have had a value so far.
        example: the first row of ours that teaches something, and its number.
        num_printed: rows of which a text that was read spells messages.
    """

    source: RowSource
    form: Form
    options: SourceOptions
    wanted: str
    rows_left: Rows
    head: list[tuple[int, Row | RowDroppedError]]
    spelled: frozenset[str]
    are_records: bool
    columns: dict[str, None]
    num_read: int = 0
    num_rows: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)
    composition: dict[str, int] = field(default_factory=dict)
    example: tuple[int, Row] | None = None
    num_printed: int = 0

    def rows(self) -> Iterator[Row]:
        """All rows of the kind that is asked for, each checked. They can be read once.

        Raises:
            DataError: none is left, too many cannot be used, or a verdict can be read in two ways.
        """
        numbered = self._plain_rows()
        with _flags_of(self.wanted):
            for number, row in self.form.group(numbered) if self.form.group else numbered:
                yield from self._converted(number, row)
            self._check()

    def _plain_rows(self) -> Iterator[Numbered]:
        for number, row in chain(self.head, self.rows_left):
            self.num_read += 1
            try:
                if isinstance(row, RowDroppedError):
                    raise row
                row = self._named(_opened(row, self.spelled, self.are_records))
                self.num_printed += any(
                    isinstance(row.get(name), str) and spells_messages(row[name]) for name in self.form.read
                )
                yield number, row
            except RowDroppedError as reason:
                self._drop(number, reason)

    def _named(self, row: Row) -> Row:
        """A row without nulls, its columns under the names of their roles."""
        row = {name: value for name, value in row.items() if value is not None}
        if not row.keys() <= self.columns.keys():
            for name in [n for n, value in row.items() if n not in self.columns and value != ""]:
                if name not in self.options.columns.ignored:
                    check_column(self.form, self.options.columns.role_of(name), self.source.name)
                self.columns[name] = None
        return self.options.columns.renamed(row)

    def _converted(self, number: int, row: Row) -> Iterator[Row]:
        try:
            made = [self._as_wanted(kind, ours) for kind, ours in self.form.convert(row)]
            for ours in made:
                _check_unicode(ours, self.wanted, self.source.where(number))
        except RowDroppedError as reason:
            self._drop(number, reason)
            return
        for ours in made:
            self._count(number, ours)
            yield ours

    def _as_wanted(self, kind: str, row: Row) -> Row:
        if self.wanted == "prompts":
            return {"prompt": row["prompt"]}
        if self.wanted == "demonstrations":
            kind, row = wanted_as_demonstration(kind, row)
        if kind != self.wanted:
            raise other_kind(self.source.name, kind, self.wanted)
        if kind in ("preferences", "labels") and "source" not in row:
            return {**row, "source": self.source.name.split(".", maxsplit=1)[0]}
        return row

    def _count(self, number: int, row: Row) -> None:
        self.num_rows += 1
        teaches = True
        if self.wanted == "labels":
            name = "wanted" if row["label"] else "not wanted"
            self.composition[name] = self.composition.get(name, 0) + 1
        if self.wanted == "preferences":
            if not is_ranking(row):
                names = {"pairs": 1}
            elif len(set(row["ranks"])) == 1:
                names, teaches = {"ties": 1}, False
            else:
                names = {"rankings": 1, "pairs of rankings": sum(1 for _ in pairs_of(row))}
            for name, count in names.items():
                self.composition[name] = self.composition.get(name, 0) + count
        if self.example is None and teaches:
            self.example = (number, row)

    def _drop(self, number: int, reason: RowDroppedError) -> None:
        self.dropped.setdefault(reason.reason, Dropped(reason.is_fault)).add(number, reason.found)

    def _check(self) -> None:
        for reader in self.form.verdicts:
            reader.check(self.source.name)
        if self.num_printed > MAX_DROPPED * self.num_read:
            raise DataError(
                f"{self.source.name}: {self.num_printed} of {self.num_read} rows hold messages spelled as text "
                "and the first rows do not, so which of the two is meant cannot be told; write the file in one form"
            )
        faults = {reason: d for reason, d in self.dropped.items() if d.is_fault or self._is_mostly(reason, d)}
        num_faults = sum(d.count for d in faults.values())
        if not self.num_rows:
            raise self.nothing_left()
        if num_faults > self.options.max_dropped * self.num_read:
            said = "; ".join(self._said(reason, d) for reason, d in faults.items())
            doubtful = UNREADABLE in faults
            share = f"{num_faults} of {self.num_read} rows ({num_faults / self.num_read:.1%})"
            raise DataError(
                f"{self.source.name}: {share} cannot be understood or used, read as {self.form.format}, and "
                f"{self.options.max_dropped:.0%} are allowed: {said}; "
                "mend the file"
                + (", or say with --columns what its values mean" if doubtful else ", give --format or --columns, or ")
                + ("" if doubtful else "allow more with --max-dropped")
            )

    def nothing_left(self) -> DataError:
        """The error about a source that no row of is left, or nothing but ties."""
        said = "; ".join(self._said(reason, d) for reason, d in self.dropped.items())
        ties = f"{self.composition['ties']} are ties" if "ties" in self.composition else ""
        why = "; ".join(part for part in (said, ties) if part) or "there are none"
        return DataError(
            f"{self.source.name}: no row is left ({why}), read as {self.form.format}; "
            "give another file, --format or --columns"
        )

    def _is_mostly(self, reason: str, dropped: Dropped) -> bool:
        return reason in _NOTHING_TO_LEARN and dropped.count > max(_FEW, _MAX_NOTHING * self.num_read)

    def _said(self, reason: str, dropped: Dropped) -> str:
        return f"{dropped.count} because {reason}{dropped.things()}: {self.source.unit}s {dropped.named(10)}"

    def report(self) -> SourceReport:
        """What was read."""
        names = self.options.columns
        unread = [name for name in self.columns if names.role_of(name) not in self.form.read]
        return SourceReport(
            self.source.name,
            self.source.sha256,
            self.wanted,
            self.form.format,
            self.options.format == "auto",
            self.source.unit,
            self.num_read,
            self.dropped,
            tuple(unread),
            tuple(filter(None, (reader.sentence() for reader in self.form.verdicts))),
            self.form.notes,
            self.composition,
            self._example_lines(),
        )

    def _example_lines(self) -> tuple[str, ...]:
        if self.example is None:
            return ()
        number, row = self.example
        parts = [(message["role"], message["content"]) for message in row["prompt"]]
        parts += [(name, row[name][0]["content"]) for name in ("completion", "chosen", "rejected") if name in row]
        parts += [
            (f"rank {rank}", answer[0]["content"])
            for rank, answer in zip(row.get("ranks", ()), row.get("responses", ()), strict=True)
        ]
        parts += [("label", "wanted" if row["label"] else "not wanted")] if "label" in row else []
        return (
            f"{self.source.where(number)} as it will be used:",
            *(f"  {name}: {_shown(said)}" for name, said in parts),
        )


def _shown(said: str) -> str:
    """A text on one line, the middle of a long one left out."""
    shown = repr(said)[1:-1]
    return shown if len(shown) <= 160 else f"{shown[:100]} ... {shown[-50:]}"


def _check_unicode(row: Row, kind: str, where: str) -> None:
    """Check a row as the data folder's rows are. The one fault that can be left is half a surrogate pair."""
    try:
        check_row(row, kind, where)
    except DataError as error:
        if "surrogate" not in str(error):
            raise
        raise RowDroppedError(HALF_A_PAIR) from None


def open_rows(source: str, options: SourceOptions | None = None, wanted: str = "preferences") -> RowReader:
    """Find a source and the form of its rows.

    Args:
        source: file, folder or hub id.
        options: what a person says of it.
        wanted: the kind of rows that is asked for: preferences, demonstrations, labels or prompts.

    Raises:
        DataError: it is not there, or its form is not known.
    """
    options = options or SourceOptions()
    with _flags_of(wanted):
        return _open_rows(source, options, wanted)


@contextmanager
def _flags_of(wanted: str) -> Iterator[None]:
    """Messages name the flags of the file that they are about."""
    try:
        yield
    except DataError as error:
        if wanted == "preferences":
            raise
        raise DataError(re.sub(r"--(format|columns)\b", rf"--{wanted}-\1", str(error))) from None


def _open_rows(source: str, options: SourceOptions, wanted: str) -> RowReader:
    if options.format not in FORMATS:
        raise unknown_format(options.format)
    found = open_source(source, options.split)
    reading = found.rows()
    head = list(islice(reading, SURVEYED_ROWS))
    first = [row for _, row in head if not isinstance(row, RowDroppedError)]
    if not first:
        reasons = "; ".join(f"{found.unit} {number}: {row}" for number, row in head[:3]) or "the file has none"
        raise DataError(f"{found.name}: there are no rows ({reasons}); give at least one")
    spelled = find_spelled(first, found.name, options.columns.role_of)
    are_records = all(map(is_record, first))
    rows = [row for row in (_opened_or_none(row, spelled, are_records) for row in first) if row is not None]
    columns = survey(rows)
    inner = [f"{name}.{field}" for name, column in columns.items() for field in column.fields]
    options.columns.check([*{name for row in [*first, *rows] for name in row}, *inner], found.name)
    options = _with_usual_names(options, columns)
    renamed = {
        options.columns.role_of(name): column for name, column in columns.items() if name not in options.columns.ignored
    }
    form = settle_form(renamed, options.columns, found.name, options.format, wanted)
    of_messages = [f"{name}.{field}" for name, c in columns.items() if c.num_messages for field in c.fields]
    seen = dict.fromkeys([*columns, *of_messages])
    return RowReader(found, form, options, wanted, reading, head, spelled, are_records, seen)


def _opened(row: Row, spelled: frozenset[str], is_record: bool) -> Row:
    """A row with what its cells spell, and what a record holds, as columns."""
    return flat_record(decoded(row, spelled)) if is_record else decoded(row, spelled)


def _opened_or_none(row: Row, spelled: frozenset[str], is_record: bool) -> Row | None:
    try:
        return _opened(row, spelled, is_record)
    except RowDroppedError:
        return None


def _with_usual_names(options: SourceOptions, columns: Mapping[str, object]) -> SourceOptions:
    """Who judged, and columns such as "Prompt", where a file names them otherwise than we do."""
    given = options.columns
    taken = {*columns, *given.columns, *given.columns.values(), *given.ignored}
    names = {name.strip().lower(): name for name in columns if name.strip().lower() not in taken}
    names = {role: name for role, name in names.items() if role in ROLES and name not in given.columns.values()}
    judge = next((name for name in _ANNOTATORS if name in columns and name not in given.columns.values()), None)
    if judge is not None and not {"annotator"} & (taken | names.keys()):
        names["annotator"] = judge
    columns_given = GivenColumns({**names, **given.columns}, given.values, given.ignored)
    return dataclasses.replace(options, columns=columns_given)

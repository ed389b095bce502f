"""A source while it is read: its rows in our form, and the rows left out, by reason."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice

from rlhf.data.evaluation_sets import check_set_row
from rlhf.data.importing.cells import decoded, find_spelled, spells_messages
from rlhf.data.importing.columns import ROLES, SURVEYED_ROWS, GivenColumns, survey
from rlhf.data.importing.detection import FORMATS, check_column, settle_form
from rlhf.data.importing.dialogues import EMPTY_RESPONSE, SAME_RESPONSES, UNREADABLE, RowDroppedError
from rlhf.data.importing.evaluation_sets import WANTED as SETS
from rlhf.data.importing.exports import flat_record, is_record
from rlhf.data.importing.form import Form, Numbered
from rlhf.data.importing.readers import Rows, RowSource, open_source
from rlhf.data.schema import Row, check_row, is_ranking, pairs_of
from rlhf.errors import DataError

MAX_DROPPED = 0.05
"""Share of a file's rows that may be left out because they cannot be understood or used."""
# Rows that are understood and teach nothing. Of PandaLM's rows 5% have an empty answer; where many more have, a column
# is misread.
_NOTHING_TO_LEARN = (EMPTY_RESPONSE, SAME_RESPONSES)
_MAX_NOTHING, _FEW = 0.2, 5
_MAX_NAMED_ROWS, _MAX_NAMED_THINGS = 50, 5
# Other names of the annotator's column; read as `annotator` where a file has no column of that name.
_ANNOTATORS = ("annotator_id", "worker", "worker_id", "rater", "rater_id", "labeler", "labeler_id", "annotator_name")


@dataclass(frozen=True)
class SourceOptions:
    """The way to read a source, as a person gives it.

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
class Dropped:
    """Rows left out for one reason.

    Attributes:
        is_fault: they could not be understood or used; False for those that were, and have nothing to teach.
        count: all of them.
        rows: numbers of the first `_MAX_NAMED_ROWS`.
        details: what was there in place of what was expected, the first few different things.
    """

    is_fault: bool
    count: int = 0
    rows: list[int] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    def add(self, row: int, detail: str) -> None:
        """Count one more."""
        self.count += 1
        if detail and detail not in self.details and len(self.details) < _MAX_NAMED_THINGS:
            self.details.append(detail)
        if len(self.rows) < _MAX_NAMED_ROWS:
            self.rows.append(row)


@dataclass
class RowReader:
    """A source while it is read: its rows in our form, a count of the rows left out, and a report of both.

    Attributes:
        source: the file or data set.
        form: how its rows are read.
        options: what a person said of it.
        wanted: the kind of rows that is asked for.
        numbered: its rows by number, with what their cells spell; an error in place of one that cannot be read.
        columns: the columns that have had a value so far.
        num_read: rows read so far.
        num_rows: rows of ours that they gave.
        num_spelled: rows of which a text that was read spells messages.
        dropped: rows left out so far, by reason.
        composition: what the rows are, by count: pairs, rankings with the pairs that they make, ties, labels.
        example: lines that show the first row that teaches something as it will be used; empty while there is none.
    """

    source: RowSource
    form: Form
    options: SourceOptions
    wanted: str
    numbered: Rows
    columns: dict[str, None]
    num_read: int = 0
    num_rows: int = 0
    num_spelled: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)
    composition: Counter[str] = field(default_factory=Counter)
    example: tuple[str, ...] = ()

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
        for number, row in self.numbered:
            self.num_read += 1
            if isinstance(row, RowDroppedError):
                self._drop(number, row)
                continue
            named = self._named(row)
            texts = [named[name] for name in self.form.read if isinstance(named.get(name), str)]
            self.num_spelled += any(map(spells_messages, texts))
            yield number, named

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
            made = [self._as_wanted(ours) for ours in self.form.convert(row)]
            for ours in made:
                _check_unicode(ours, self.wanted, self.source.where(number))
        except RowDroppedError as reason:
            self._drop(number, reason)
            return
        for ours in made:
            self._count(number, ours)
            yield ours

    def _as_wanted(self, row: Row) -> Row:
        if self.wanted == SETS:
            return row
        if self.wanted == "prompts":
            return {"prompt": row["prompt"]}
        if self.wanted == "demonstrations":
            if not row.get("label", True):
                raise RowDroppedError("the label says that the response is not wanted", is_fault=False)
            return {"prompt": row["prompt"], "completion": row["completion"]}
        return row if "source" in row else {**row, "source": self.source.name.split(".", maxsplit=1)[0]}

    def _count(self, number: int, row: Row) -> None:
        self.num_rows += 1
        is_tie = is_ranking(row) and len(set(row["ranks"])) == 1
        if self.wanted == SETS:
            self.composition[row["kind"]] += 1
        elif self.wanted == "labels":
            self.composition["wanted" if row["label"] else "not wanted"] += 1
        elif is_tie:
            self.composition["ties"] += 1
        elif is_ranking(row):
            self.composition["rankings"] += 1
            self.composition["pairs of rankings"] += sum(1 for _ in pairs_of(row))
        elif self.wanted == "preferences":
            self.composition["pairs"] += 1
        if not self.example and not is_tie:
            self.example = (f"{self.source.where(number)} as it will be used:", *_lines_of(row))

    def _drop(self, number: int, reason: RowDroppedError) -> None:
        self.dropped.setdefault(reason.reason, Dropped(reason.is_fault)).add(number, reason.detail)

    def _check(self) -> None:
        for reader in self.form.verdicts:
            reader.check(self.source.name)
        if self.num_spelled > MAX_DROPPED * self.num_read:
            raise DataError(
                f"{self.source.name}: {self.num_spelled} of {self.num_read} rows hold messages spelled as text "
                "and the first rows do not, so it is not clear which form is meant; write all rows in one form"
            )
        if not self.num_rows:
            raise self.nothing_left()
        most = max(_FEW, _MAX_NOTHING * self.num_read)
        faults = [r for r, d in self.dropped.items() if d.is_fault or (r in _NOTHING_TO_LEARN and d.count > most)]
        num_faults = sum(self.dropped[reason].count for reason in faults)
        if num_faults > self.options.max_dropped * self.num_read:
            advice = "give --format or --columns, or allow more with --max-dropped"
            raise DataError(
                f"{self.source.name}: {num_faults} of {self.num_read} rows ({num_faults / self.num_read:.1%}) "
                f"cannot be understood or used, read as {self.form.format}, and {self.options.max_dropped:.0%} are "
                f"allowed: {self._said(faults)}; correct the file, "
                + ("or say with --columns what its values mean" if UNREADABLE in faults else advice)
            )

    def nothing_left(self) -> DataError:
        """The error about a source of which no row is left, or only ties."""
        ties = f"{self.composition['ties']} are ties" if self.composition["ties"] else ""
        why = "; ".join(filter(None, (self._said(self.dropped), ties))) or "there are none"
        return DataError(
            f"{self.source.name}: no row is left ({why}), read as {self.form.format}; "
            "give another file, --format or --columns"
        )

    def _said(self, reasons: Iterable[str]) -> str:
        return "; ".join(f"{self.dropped[reason].count} {self._because(reason, 10)}" for reason in reasons)

    def _because(self, reason: str, most: int) -> str:
        """Why rows were left out, what stood there, and the numbers of the first of them."""
        dropped = self.dropped[reason]
        shown = dropped.rows[:most]
        rest = f" and {dropped.count - len(shown)} more" if dropped.count > len(shown) else ""
        details = f" ({'; '.join(dropped.details)})" if dropped.details else ""
        return f"because {reason}{details}: {self.source.unit}s {', '.join(map(str, shown))}{rest}"

    @property
    def unread(self) -> list[str]:
        """Columns that were not read."""
        return [name for name in self.columns if self.options.columns.role_of(name) not in self.form.read]

    @property
    def verdicts(self) -> list[str]:
        """Sentences on how the values of each verdict column were read, with their counts."""
        return [sentence for reader in self.form.verdicts if (sentence := reader.sentence())]

    @property
    def lines(self) -> list[str]:
        """Sentences on how the file was read."""
        made = ", ".join(f"{count} {name}" for name, count in self.composition.items() if count)
        unread = f"columns that were not read: {', '.join(self.unread)}"
        return [
            *([f"of the {self.wanted}: {made}"] if self.composition.keys() - {"pairs"} else []),
            *self.verdicts,
            *([self.form.note] if self.form.note else []),
            *([unread] if self.unread else []),
        ]

    @property
    def left_out(self) -> list[str]:
        """Sentences on the rows that were left out, one for each reason."""
        return [
            f"{dropped.count} left out, {self._because(reason, _MAX_NAMED_ROWS)}"
            for reason, dropped in sorted(self.dropped.items())
        ]


def _lines_of(row: Row) -> Iterator[str]:
    """A row for a person, a message a line."""
    parts = [(message["role"], message["content"]) for message in row["prompt"]]
    parts += [(name, row[name][0]["content"]) for name in ("completion", "chosen", "rejected") if name in row]
    ranked = zip(row.get("ranks", ()), row.get("responses", ()), strict=True)
    parts += [(f"rank {rank}", answer[0]["content"]) for rank, answer in ranked]
    parts += [("label", "wanted" if row["label"] else "not wanted")] if "label" in row else []
    for name, said in parts:
        shown = repr(said)[1:-1]
        yield f"  {name}: {shown if len(shown) <= 160 else f'{shown[:100]} ... {shown[-50:]}'}"


def _check_unicode(row: Row, kind: str, where: str) -> None:
    """Check a row as the data folder's rows are. The one fault that can be left is half a surrogate pair."""
    try:
        if kind == SETS:
            check_set_row(row, where)
        else:
            check_row(row, kind, where)
    except DataError as error:
        if "surrogate" not in str(error):
            raise
        raise RowDroppedError("a text holds half of a surrogate pair") from None


def open_rows(source: str, options: SourceOptions | None = None, wanted: str = "preferences") -> RowReader:
    """Find a source and the form of its rows.

    Args:
        source: file, folder or hub id.
        options: what a person says of it.
        wanted: the kind of rows that is asked for: preferences, demonstrations, labels, prompts or evaluation.

    Raises:
        DataError: it is not there, or its form is not known.
    """
    options = options or SourceOptions()
    with _flags_of(wanted):
        if options.format not in FORMATS:
            raise DataError(f"--format {options.format}: there is no such format; give one of {', '.join(FORMATS)}")
        opened = open_source(source, options.split)
        reading = opened.rows()
        head = list(islice(reading, SURVEYED_ROWS))
        first = [row for _, row in head if not isinstance(row, RowDroppedError)]
        if not first:
            reasons = "; ".join(f"{opened.unit} {number}: {row}" for number, row in head[:3]) or "the file has none"
            raise DataError(f"{opened.name}: there are no rows ({reasons}); give at least one")
        spelled = find_spelled(first, opened.name, options.columns.role_of)
        are_records = all(map(is_record, first))
        head = [(number, _unpacked(row, spelled, are_records)) for number, row in head]
        rows = [row for _, row in head if not isinstance(row, RowDroppedError)]
        columns = survey(rows)
        inner = [f"{name}.{field}" for name, column in columns.items() for field in column.fields]
        options.columns.check([*{name for row in [*first, *rows] for name in row}, *inner], opened.name)
        given = _with_usual_names(options.columns, columns)
        renamed = {given.role_of(name): column for name, column in columns.items() if name not in given.ignored}
        form = settle_form(renamed, given, opened.name, options.format, wanted)
        of_messages = [f"{name}.{field}" for name, c in columns.items() if c.num_messages for field in c.fields]
        seen = dict.fromkeys([*columns, *of_messages])
        rest = ((number, _unpacked(row, spelled, are_records)) for number, row in reading)
        options = dataclasses.replace(options, columns=given)
        return RowReader(opened, form, options, wanted, chain(head, rest), seen)


@contextmanager
def _flags_of(wanted: str) -> Iterator[None]:
    """Messages name the flags of the file that they are about."""
    try:
        yield
    except DataError as error:
        if wanted in ("preferences", SETS):
            raise
        raise DataError(re.sub(r"--(format|columns)\b", rf"--{wanted}-\1", str(error))) from None


def _unpacked(row: Row | RowDroppedError, spelled: frozenset[str], is_record: bool) -> Row | RowDroppedError:
    """A row with what its cells spell, and what a record holds, as columns; or why it cannot be used."""
    try:
        if isinstance(row, RowDroppedError):
            return row
        row = decoded(row, spelled)
        return flat_record(row) if is_record else row
    except RowDroppedError as error:
        return error


def _with_usual_names(given: GivenColumns, columns: Mapping[str, object]) -> GivenColumns:
    """Roles of columns with a usual other name: `worker_id` for the annotator, "Prompt" for `prompt`."""
    taken = {*columns, *given.columns, *given.columns.values(), *given.ignored}
    free = [name for name in columns if name not in given.columns.values()]
    lower = {name.strip().lower(): name for name in columns}
    names = {role: name for role, name in lower.items() if role in ROLES and role not in taken and name in free}
    judge = next((name for name in _ANNOTATORS if name in free), None)
    if judge is not None and "annotator" not in taken | names.keys():
        names["annotator"] = judge
    return GivenColumns({**names, **given.columns}, given.values, given.ignored)

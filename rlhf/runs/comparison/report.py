"""A comparison as headlines, sentences and tables of plain text, which the terminal, Markdown and HTML show alike."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rlhf.runs.comparison.code import CodeDifference, Commits, PatchStat
from rlhf.runs.comparison.compare import Comparison, Pair, started_at
from rlhf.runs.comparison.data import DataDifference, RowChanges
from rlhf.runs.comparison.metrics import Difference, Result
from rlhf.runs.comparison.run_view import RunView
from rlhf.runs.comparison.stages import StageDifference
from rlhf.runs.listing import MetricValue
from rlhf.tracking.tags import ALARMS_TAG, OBSTACLES_TAG, REPRODUCIBLE_TAG
from rlhf.tracking.versions import policy_version

Tone = Literal["", "good", "bad", "quiet"]
_LONGEST = 60
_MAX_FILES = 20


@dataclass(frozen=True)
class Cell:
    """Text, maybe of two lines, and how it is coloured."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        header: a title for each column.
        rows: cells.
        numbers: columns that stand to the right.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class ReportSection:
    """A part of the report.

    Attributes:
        title: its headline.
        sentences: what stands below it.
        tables: what stands below these.
    """

    title: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


def report_sections(comparison: Comparison) -> list[ReportSection]:
    """The report: first the settings that differ, last the environment."""
    sides = comparison.sides
    labels = tuple(side.label for side in sides)
    parts = [_values("Configuration", "setting", labels, comparison.settings), _runs(sides)]
    for pair in comparison.pairs:
        of = f", {pair.second} against {pair.first}" if len(comparison.pairs) > 1 else ""
        parts += [_results(pair, of, comparison.seed_note), _stages(pair, of), _code(pair, of), _data(pair, of)]
    parts.append(_values("Environment", "what", labels, comparison.environment))
    return parts


def _runs(sides: Sequence[RunView]) -> ReportSection:
    facts = {
        "run": [side.run.run_id for side in sides],
        "name": [side.run.name for side in sides],
        "started": [started_at(side) for side in sides],
        "state": [side.run.status.lower() for side in sides],
        "policy": [_policy(side) for side in sides],
        "reproducible": [_reproducible(side) for side in sides],
        "alarms": [side.tags.get(ALARMS_TAG, "").replace(",", ", ") or "none" for side in sides],
    }
    rows = tuple((Cell(name), *map(Cell, values)) for name, values in facts.items())
    return ReportSection("Runs", tables=(Table(("", *(side.label for side in sides)), rows),))


def _policy(side: RunView) -> str:
    version = policy_version(side.tags)
    return version + (f" ({', '.join(side.aliases)})" if side.aliases else "") if version else "none"


def _reproducible(side: RunView) -> str:
    if side.tags.get(REPRODUCIBLE_TAG) == "true":
        return "yes"
    return f"no: {side.tags.get(OBSTACLES_TAG) or 'it does not say why'}"


def _results(pair: Pair, of: str, seeds: str) -> ReportSection:
    equal = [result.metric for result in pair.results if result.difference and result.difference.noise == "equal"]
    rows = tuple(
        (
            _metric(result),
            Cell(_value(result.first)),
            Cell(_value(result.second)),
            Cell(_change(result)),
            _verdict(result.difference),
        )
        for result in pair.results
        if result.metric not in equal
    )
    header = ("metric", pair.first, pair.second, f"{pair.second} - {pair.first}", "verdict")
    methods = {result.difference.method for result in pair.results if result.difference}
    sentences = [seeds, *(_METHODS[method] for method in ("pairs", "intervals") if method in methods)]
    if any(result.difference and result.difference.noise == "other judge" for result in pair.results):
        sentences.append("Other judge: each run is scored by its own reward model, and the two are not the same.")
    if equal:
        sentences.append(f"Equal to the last bit: {', '.join(equal)}.")
    if not pair.results:
        return ReportSection(f"Results{of}", ("Neither run has come so far.",))
    return ReportSection(f"Results{of}", tuple(sentences), (Table(header, rows, numbers=(1, 2, 3)),) if rows else ())


def _metric(result: Result) -> Cell:
    stage, _, name = result.metric.partition("/")
    return Cell(f"{name}\n{stage}{f', {result.unit}' if result.unit else ''}")


_METHODS = {
    "pairs": "(pairs): both runs answered the same prompts, so the interval is that of their differences prompt by "
    "prompt (bootstrap).",
    "intervals": "(intervals): the results of single prompts were not kept of both runs, so the difference's interval "
    "is put together from the two 95% intervals. On the same prompts that is wider than it need be.",
}


def _value(figure: MetricValue | None) -> str:
    if figure is None:
        return "none"
    if figure.low is None or figure.high is None:
        return as_text(figure.value)
    return f"{as_text(figure.value)}\n{as_text(figure.low)} to {as_text(figure.high)}"


def _change(result: Result) -> str:
    difference = result.difference
    if difference is None or difference.noise == "other judge":
        return ""
    value = as_text(difference.value, sign=True)
    if difference.low is None or difference.high is None:
        return value
    return f"{value}\n{as_text(difference.low, sign=True)} to {as_text(difference.high, sign=True)}"


def _verdict(difference: Difference | None) -> Cell:
    if difference is None:
        return Cell("", "quiet")
    word = {True: "better ", False: "worse ", None: ""}[difference.better]
    method = f"\n{word}({difference.method})" if difference.method else ""
    tone: Tone = "quiet"
    if difference.noise == "more than noise":
        tone = {True: "good", False: "bad", None: ""}[difference.better]  # type: ignore[assignment]
    return Cell(f"{difference.noise}{method}", tone)


def as_text(value: float, *, sign: bool = False) -> str:
    """Three decimals, and fewer of what is large or whole."""
    plus = "+" if sign else ""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:{plus},.0f}"
    return f"{value:{plus}.1e}" if abs(value) < 0.0005 else f"{value:{plus},.3f}"


def _stages(pair: Pair, of: str) -> ReportSection:
    rows = tuple(
        (Cell(stage.stage), *_state(stage), *(Cell("" if s is None else f"{s:,.1f}") for s in stage.seconds))
        for stage in pair.stages
    )
    header = ("stage", "fingerprint", "because of", f"s, {pair.first}", f"s, {pair.second}")
    if not rows:
        return ReportSection(f"Stages{of}", ("Neither run has finished a stage.",))
    return ReportSection(f"Stages{of}", ("Seconds are those of the training.",), (Table(header, rows, numbers=(3, 4)),))


def _state(stage: StageDifference) -> tuple[Cell, Cell]:
    output = "; what they made is the same to the last bit" if stage.same_output and not stage.trained_once else ""
    if stage.same is None:
        return Cell("one run only", "quiet"), Cell("")
    if stage.same:
        return Cell("same", "good"), Cell(
            "trained once, used by both" if stage.trained_once else f"trained twice{output}"
        )
    return Cell("differs", "bad"), Cell((", ".join(stage.reasons) or "what is not recorded") + output)


def _code(pair: Pair, of: str) -> ReportSection:
    code = pair.code
    sentences = list(_code_sentences(pair, code))
    tables = []
    for label, commits in zip((pair.first, pair.second), code.only or (), strict=False):
        if commits.number:
            tables.append(_commits(label, commits))
    for label, patch in zip((pair.first, pair.second), code.patches, strict=True):
        if patch and patch.files:
            tables.append(_patch(label, patch))
    return ReportSection(f"Code{of}", tuple(sentences), tuple(tables))


def _code_sentences(pair: Pair, code: CodeDifference) -> Iterator[str]:
    short = [commit[:9] if commit else "no commit" for commit in code.commits]
    if code.commits[0] == code.commits[1]:
        yield f"Both ran commit {short[0]}."
    else:
        changes = f": {code.changes}" if code.changes else ""
        yield f"{pair.first} ran commit {short[0]}, {pair.second} {short[1]}{changes}."
    dirty = [label for label, patch in zip((pair.first, pair.second), code.patches, strict=True) if patch]
    if len(dirty) == 2 and code.same_patch:
        yield "Both working trees differed from the commit by the same patch."
    elif dirty:
        yield f"The working tree of {' and of '.join(dirty)} differed from the commit."
    for label, patch in zip((pair.first, pair.second), code.patches, strict=True):
        if patch and patch.left_out:
            yield f"{label}: the patch lacks {', '.join(patch.left_out)}."
    yield from code.notes


def _commits(label: str, commits: Commits) -> Table:
    rows = [(Cell(line.partition(" ")[0]), Cell(line.partition(" ")[2])) for line in commits.lines]
    more = commits.number - len(commits.lines)
    if more:
        rows.append((Cell("..."), Cell(f"{more:,} more", "quiet")))
    return Table((f"{label} only", f"{commits.number:,} commits" if commits.number > 1 else "1 commit"), tuple(rows))


def _patch(label: str, patch: PatchStat) -> Table:
    def count(lines: int | None) -> str:
        return "binary" if lines is None else f"{lines:,}"

    rows = [(Cell(name), Cell(count(added)), Cell(count(removed))) for name, added, removed in patch.files[:_MAX_FILES]]
    if len(patch.files) > _MAX_FILES:
        rows.append((Cell(f"{len(patch.files) - _MAX_FILES:,} more files", "quiet"), Cell(""), Cell("")))
    return Table((f"patch of {label}", "lines added", "removed"), tuple(rows), numbers=(1, 2))


def _data(pair: Pair, of: str) -> ReportSection:
    data = pair.data
    rows = [
        *((f"{kind}.jsonl, rows read", counts) for kind, counts in data.rows.items() if not data.changes),
        *((f"{split}, rows used", counts) for split, counts in data.splits.items()),
    ]
    changed = tuple(
        (Cell(name), *(Cell("?" if n is None else f"{n:,}") for n in counts), Cell(_growth(counts)))
        for name, counts in rows
        if counts[0] != counts[1]
    )
    sentences = [_data_sentence(pair, data), *data.notes]
    if rows and not changed and not data.is_same:
        sentences.append("Every count of rows is the same in both.")
    tables = [_row_changes(pair, data.changes)] if data.changes else []
    if changed:
        header = ("rows", pair.first, pair.second, f"{pair.second} - {pair.first}")
        tables.append(Table(header, changed, numbers=(1, 2, 3)))
    return ReportSection(f"Data{of}", tuple(sentences), tuple(tables))


def _row_changes(pair: Pair, changes: Mapping[str, RowChanges]) -> Table:
    """A line for each kind of row, and below it a line for each source that has changed."""
    rows: list[tuple[Cell, ...]] = []
    for kind, change in changes.items():
        counts = [sum(part.values()) for part in (change.added, change.removed, change.changed)]
        rows.append(
            tuple(map(Cell, (f"{kind}.jsonl", f"{change.old:,}", f"{change.new:,}", *(f"{n:,}" for n in counts))))
        )
        for source in sorted({*change.added, *change.removed, *change.changed}):
            parts = (part.get(source, 0) for part in (change.added, change.removed, change.changed))
            rows.append(
                (Cell(f"  from {source}", "quiet"), Cell(""), Cell(""), *(Cell(f"{n:,}", "quiet") for n in parts))
            )
    header = ("rows", pair.first, pair.second, "added", "removed", "changed")
    return Table(header, tuple(rows), numbers=(1, 2, 3, 4, 5))


def _data_sentence(pair: Pair, data: DataDifference) -> str:
    if data.is_same:
        return f"Both read version {data.md5s[0]}." if data.md5s[0] else "Neither has read any data."
    versions = [md5 or "none" for md5 in data.md5s]
    return f"{pair.first} read version {versions[0]}, {pair.second} {versions[1]}."


def _growth(counts: tuple[int | None, int | None]) -> str:
    return "" if counts[0] is None or counts[1] is None else f"{counts[1] - counts[0]:+,}"


def _values(title: str, what: str, labels: tuple[str, ...], values: object) -> ReportSection:
    assert isinstance(values, dict)
    if not values:
        return ReportSection(title, ("The same in all that is recorded.",))
    rows = tuple(
        (Cell(name), *(Cell("(not set)", "quiet") if value is None else Cell(_cut(value)) for value in row))
        for name, row in values.items()
    )
    return ReportSection(title, ("What is not listed is the same.",), (Table((what, *labels), rows),))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."

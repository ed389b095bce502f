"""Preferences that are known come out of an import as they went in, whatever the form, or the file is refused.

The files are made from public knowledge of each form, not from the code that reads them. `RLHF_FILES` says how many
(default 1,000), `RLHF_FILES_SEED` from which seed.
"""

import json
import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from form_containers import write_file
from form_files import FORMS, File, make_file
from form_texts import key

from rlhf.data.importing.columns import parse_columns
from rlhf.data.importing.formats import ImportReport, Sources, convert_dataset
from rlhf.data.importing.reading import SourceOptions
from rlhf.data.schema import Row, pairs_of
from rlhf.errors import DataError

NUM_FILES = int(os.environ.get("RLHF_FILES", "1000"))
SEED = os.environ.get("RLHF_FILES_SEED", "0")
_FORMS = sorted(FORMS)


def rows_of(path: Path) -> list[Row]:
    with path.open("rb") as lines:
        return [json.loads(line) for line in lines]


def options_of(rng: Random, file: File) -> SourceOptions:
    """What a person would say of the file: nothing, its form's name, or what its columns hold."""
    named = file.form.format and rng.random() < 0.25
    return SourceOptions(file.form.format if named else "auto", parse_columns(file.form.columns or None))


@pytest.mark.parametrize("name", _FORMS)
def test_preferences_come_out_as_they_went_in(tmp_path: Path, name: str) -> None:
    outcomes: Counter[str] = Counter()
    for number in range(max(1, NUM_FILES // len(_FORMS))):
        rng = Random(f"{SEED} {name} {number}")
        file = make_file(rng, FORMS[name](rng))
        folder = tmp_path / str(number)
        folder.mkdir()
        path = write_file(rng, file.rows, folder, tabular=file.tabular)
        outcomes[check(file, path, options_of(rng, file), folder)] += 1
    print(f"{name}: {dict(outcomes)}")


def imported(path: Path, options: SourceOptions, data: Path) -> tuple[ImportReport | None, str]:
    """The report of an import, or why the file was refused."""
    try:
        return convert_dataset(Sources(str(path), options={"preferences": options}), data), ""
    except DataError as error:
        return None, str(error)


def check(file: File, path: Path, options: SourceOptions, folder: Path) -> str:
    """Import a file, and compare. Gives what came of it."""
    told = f"{path}, {options}, odd {len(file.odd)}, suspicious {file.suspicious!r}, first row {file.rows[0]}"
    (folder / "data").mkdir()
    report, refusal = imported(path, options, folder / "data")
    if report is None:
        assert file.expected != "always", f"refused: {refusal}\n{told}"
        return "refused"
    check_pairs(file, folder / "data", told)
    check_report(file, report, told)
    assert file.expected != "never", f"nobody can know what its verdicts mean, and yet it was imported: {told}"
    return "imported"


def check_pairs(file: File, data: Path, told: str) -> None:
    """The pairs are those that are known, and only best answers are demonstrations."""
    rows = rows_of(data / "preferences.jsonl")
    found = Counter(
        (key(pair["prompt"]), pair["chosen"][0]["content"], pair["rejected"][0]["content"])
        for row in rows
        for pair in pairs_of(row)
    )
    known = Counter(pair for comparison in file.comparisons * file.form.times for pair in comparison.pairs())
    odd = {pair for comparison in file.odd for pair in comparison.pairs()}
    found = Counter({pair: count for pair, count in found.items() if pair not in odd})
    turned = [pair for pair in found - known if (pair[0], pair[2], pair[1]) in known]
    assert not turned, f"turned round: {turned[0]}\n{told}"
    assert not found - known, f"another pair: {next(iter(found - known))}\n{told}"
    assert found == known or file.shuffled, (
        f"more: {next(iter(found - known), None)}, fewer: {next(iter(known - found), None)}\n{told}"
    )
    best = {(key(comparison.prompt), comparison.best) for comparison in (*file.comparisons, *file.odd)}
    for row in rows_of(data / "demonstrations.jsonl"):
        assert (key(row["prompt"]), row["completion"][0]["content"]) in best, f"no best answer: {row}\n{told}"


def check_report(file: File, report: ImportReport, told: str) -> None:
    """Odd rows are counted, and no others; columns that were not read are named."""
    dropped = sum(dropped.count for dropped in report.sources[0].dropped.values())
    most = sum(len(file.form.write(comparison)) for comparison in file.odd)
    assert len(file.odd) <= dropped <= most or file.shuffled, f"{dropped} left out: {report.summary}\n{told}"
    for column in (*file.harmless, *filter(None, [file.suspicious])):
        if all(row[column] is None for row in file.rows):
            continue
        assert column in report.summary, f"{column} is not named: {report.summary}\n{told}"

"""Preferences that are known come out of an import as they went in, whatever the form, or the file is refused.

The files are made from public knowledge of each form, not from the code that reads them. `RLHF_FILES` says how many
are made (default 1,000), `RLHF_FILES_SEED` from which seed. `pytest -s` prints how many of each form were imported.
"""

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from form_containers import write_file
from form_files import FORMS, File, make_file
from form_labels import LABELS, Labelled, make_labelled
from form_texts import key, starts_a_turn

from rlhf.cli.main import main
from rlhf.data.importing.columns import parse_columns
from rlhf.data.importing.formats import ImportReport, Sources, convert_dataset
from rlhf.data.importing.reading import SourceOptions
from rlhf.data.schema import Row, pairs_of
from rlhf.errors import DataError

NUM_FILES = int(os.environ.get("RLHF_FILES", "1000"))
NUM_FILES_OF_A_FORM = -(-NUM_FILES // (len(FORMS) + len(LABELS)))
NUM_COMMANDS = 50
SEED = os.environ.get("RLHF_FILES_SEED", "0")


def rows_of(path: Path) -> list[Row]:
    with path.open("rb") as lines:
        return [json.loads(line) for line in lines]


def written(name: str, number: int, folder: Path) -> tuple[File, Path, dict[str, str]]:
    """A file of a form, where it is, and what a person says of it: nothing, its form's name, or what columns hold."""
    rng = Random(f"{SEED} {name} {number}")
    file = make_file(rng, FORMS[name](rng))
    path = write_file(rng, file.rows, folder, tabular=file.tabular)
    named = file.form.format and rng.random() < 0.25
    return file, path, {"format": file.form.format if named else "auto", "columns": file.form.columns}


@pytest.mark.parametrize("name", sorted(FORMS))
def test_preferences_come_out_as_they_went_in(tmp_path: Path, name: str) -> None:
    outcomes: Counter[str] = Counter()
    for number in range(NUM_FILES_OF_A_FORM):
        folder = tmp_path / str(number)
        (folder / "data").mkdir(parents=True)
        file, path, said = written(name, number, folder)
        options = SourceOptions(said["format"], parse_columns(said["columns"] or None))
        sources = Sources(str(path), options={"preferences": options})
        outcomes[check(file, sources, folder / "data", f"{path} (seed {SEED}), {said}, {file}")] += 1
        shutil.rmtree(folder)
    print(f"{name}: {dict(outcomes)}")


def imported(sources: Sources, data: Path) -> tuple[ImportReport | None, str]:
    """The report of an import, or why a file was refused."""
    try:
        return convert_dataset(sources, data), ""
    except DataError as error:
        return None, str(error)


def check(file: File, sources: Sources, data: Path, told: str) -> str:
    """Import a file, and compare. Gives what came of it."""
    report, refusal = imported(sources, data)
    if report is None:
        assert file.expected != "always", f"refused: {refusal}\n{told}"
        return "refused"
    check_pairs(file, data, told)
    check_report(file, report, told)
    assert file.expected != "never", f"nobody can know what its verdicts mean, and yet it was imported: {told}"
    return "imported"


def check_pairs(file: File, data: Path, told: str) -> None:
    """The pairs are those that are known, ties are ties, and only best answers are demonstrations."""
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
    assert found == known or file.shuffled, f"missing: {next(iter(known - found))}\n{told}"
    best = {(key(item.prompt), answer) for item in (*file.comparisons, *file.odd) for answer in item.demonstrations}
    for row in rows_of(data / "demonstrations.jsonl"):
        assert (key(row["prompt"]), row["completion"][0]["content"]) in best, f"no best answer: {row}\n{told}"
    if file.form.num_answers == (2, 2) and not file.odd and not file.shuffled:
        num_ties = sum(comparison.better is None for comparison in file.comparisons) * file.form.times
        assert sum(row.get("ranks") == [1, 1] for row in rows) == num_ties, f"ties: {told}"


def check_report(file: File, report: ImportReport, told: str) -> None:
    """Odd rows are counted, and no others; columns that say nothing of the answers are named as not read."""
    source = report.sources[0]
    dropped = sum(dropped.count for dropped in source.dropped.values())
    most = sum(len(file.form.write(comparison)) for comparison in file.odd)
    assert len(file.odd) <= dropped <= most or file.shuffled, f"{dropped} left out: {report.summary}\n{told}"
    present = {name for row in file.rows for name, value in row.items() if value is not None}
    unread = set(file.harmless) & present
    assert unread <= set(source.unread), f"not named: {unread - set(source.unread)}\n{told}"
    assert file.suspicious not in source.unread, f"looks like a verdict, and was not read: {file.suspicious}\n{told}"


def test_through_the_command(project_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the command says of the same files: exit code 2 and nothing written, or the known preferences."""
    outcomes: Counter[int] = Counter()
    for number in range(NUM_COMMANDS):
        folder = tmp_path / f"given {number}"
        folder.mkdir()
        name = sorted(FORMS)[number % len(FORMS)]
        file, path, said = written(name, 1_000_000 + number, folder)
        before = (project_root / "data.dvc").read_bytes() if (project_root / "data.dvc").exists() else b""
        columns = ["--columns", said["columns"]] if said["columns"] else []
        code = main(["data", "import", str(path), "--replace", "--format", said["format"], *columns])
        outcomes[code] += 1
        told = f"{capsys.readouterr()}, {said}, {file}"
        assert code == 0 or (code == 2 and file.expected != "always"), told
        if code == 0:
            check_pairs(file, project_root / "data", told)
        else:
            after = (project_root / "data.dvc").read_bytes() if (project_root / "data.dvc").exists() else b""
            assert after == before, told
    assert outcomes[0] > NUM_COMMANDS / 3, outcomes


@pytest.mark.parametrize("name", sorted(LABELS))
def test_labels_keep_their_sense(tmp_path: Path, name: str) -> None:
    outcomes: Counter[str] = Counter()
    preferences = tmp_path / "pairs.jsonl"
    preferences.write_text(json.dumps({"prompt": "Hi", "chosen": "Hello", "rejected": "No"}))
    for number in range(NUM_FILES_OF_A_FORM):
        rng = Random(f"{SEED} {name} {number}")
        form = LABELS[name](rng)
        rows, labelled = make_labelled(rng, form)
        folder = tmp_path / str(number)
        folder.mkdir()
        path = write_file(rng, rows, folder)
        told = f"{path} (seed {SEED}), {form}, {rows}"
        options = SourceOptions(columns=parse_columns(form.columns or None))
        for kind in ("labels", "demonstrations"):
            (folder / kind).mkdir()
            sources = Sources(str(preferences), **{kind: str(path)}, options={kind: options})  # type: ignore[arg-type]
            report, refusal = imported(sources, folder / kind)
            doubtful = form.readable == "perhaps" or any(starts_a_turn(value) for row in rows for value in row.values())
            assert report is not None or doubtful, f"refused: {refusal}\n{told}"
            if report is not None:
                check_labels(kind, labelled, folder / kind, told)
            outcomes[f"{kind} {'refused' if report is None else 'imported'}"] += 1
        (folder / "data").mkdir()
        report, _ = imported(Sources(str(path), options={"preferences": options}), folder / "data")
        assert report is None, f"labels were taken for preferences: {told}"
        shutil.rmtree(folder)
    print(f"{name}: {dict(outcomes)}")


def check_labels(kind: str, labelled: list[Labelled], data: Path, told: str) -> None:
    """Each answer has its own label; as demonstrations only the wanted ones are there."""
    known = Counter((key(item.prompt), item.answer, item.wanted) for item in labelled)
    if kind == "demonstrations":
        known = Counter({item: count for item, count in known.items() if item[2]})
    found = Counter(
        (key(row["prompt"]), row["completion"][0]["content"], row.get("label", True))
        for row in rows_of(data / f"{kind}.jsonl")
    )
    assert found == known, f"more: {found - known}, fewer: {known - found}\n{told}"

"""`rlhf compare` on a real store: configuration, environment, data, stages, and the documents."""

import json
import os
import re
import shutil
import stat
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from compared_runs import CONFIG, MakeRun, evaluation

from rlhf.cli.main import main
from rlhf.errors import InputError
from rlhf.references import Reference
from rlhf.runs.comparison.compare import compare_runs
from rlhf.runs.comparison.data import compare_data
from rlhf.runs.comparison.html import as_html, draw_curves
from rlhf.runs.comparison.markdown import as_markdown
from rlhf.runs.comparison.run_view import RunView
from rlhf.tracking.files import log_content, read_bytes
from rlhf.tracking.queries import ClientStore
from rlhf.tracking.records import RunStore
from rlhf.tracking.runs import link_stage, set_tags

Sides = Callable[..., list[RunView]]
BOTH = ("#0072b2", "#d55e00")
CURVE = [(step, step / 10) for step in range(40)]


def report(rows: int) -> dict[str, str]:
    return {"report.json": json.dumps({"rows": {"preferences": rows}, "splits": {"preferences/train": rows // 2}})}


@pytest.fixture
def two(make_run: MakeRun) -> tuple[str, str]:
    """Runs that differ in data, configuration, environment and results."""
    first = make_run(
        stages={
            "data": {"files": report(100)},
            "sft": {"settings": {"config": {"learning_rate": 1.0}, "setup": {"seed": 0}}},
            "policy": {"curves": {"policy/kl_mean": CURVE}},
            "evaluation": evaluation([0.0, 1.0, 0.0, 1.0]),
        }
    )
    second = make_run(
        config={**CONFIG, "rl": {"kl_coef": 0.2, "lora": None}, "compute": {"dtype": "bf16", "num_threads": 1}},
        tags={"rlhf.data_md5": "e" * 32 + ".dir", "rlhf.version.torch": "2.14.0"},
        stages={
            "data": {"files": report(120), "fingerprint": "other", "made": "more"},
            "sft": {
                "settings": {"config": {"learning_rate": 2.0}, "setup": {"seed": 0}},
                "fingerprint": "other",
                "inputs": {"data": Reference(run_id="r", uri="runs:/r/output", sha256="9" * 64)},
            },
            "policy": {"curves": {"policy/kl_mean": [(step, value / 2) for step, value in CURVE]}},
            "evaluation": evaluation([0.0, 1.0, 0.0, 0.0]),
        },
    )
    return first, second


def test_configuration_and_environment(store: RunStore, two: tuple[str, str]):
    found = compare_runs(store, two)
    assert found.settings == {"rl.kl_coef": ("0.1", "0.2"), "rl.lora": (None, "null")}
    assert found.environment == {"torch": ("2.13.0", "2.14.0"), "compute.num_threads": ("2", "1")}


def test_long_settings_are_read_whole(store: RunStore, make_run: MakeRun):
    texts = [f"{'x' * 600}{end}" for end in "ab"]  # a parameter in MLflow keeps 500 characters
    found = compare_runs(store, [make_run(config=CONFIG | {"name": text}) for text in texts])
    assert found.settings == {"name": tuple(texts)}


def test_a_run_without_its_configuration_is_read_from_its_parameters(
    store: RunStore, make_run: MakeRun, project_root: Path
):
    rewards = [{"weight": 1.0, "kind": "trained"}]
    runs = [make_run(config=CONFIG | {"rl": {"kl_coef": coef, "rewards": rewards}}) for coef in (0.1, 0.2)]
    (project_root / "mlruns" / "artifacts" / runs[1] / "artifacts" / "config.yaml").unlink()
    assert compare_runs(store, runs).settings == {"rl.kl_coef": ("0.1", "0.2")}


def test_stages(store: RunStore, two: tuple[str, str], make_run: MakeRun):
    (pair,) = compare_runs(store, two).pairs
    stages = {one.stage: one for one in pair.stages}
    assert (stages["policy"].same, stages["policy"].trained_once, stages["policy"].same_output) == (True, False, True)
    assert (stages["data"].same, stages["data"].same_output) == (False, False)
    assert stages["data"].reasons == ()
    assert stages["sft"].reasons == ("input data", "sft.learning_rate")
    (pair,) = compare_runs(store, [two[0], make_run(stages={"data": {"files": report(1)}})]).pairs
    assert {one.stage: one.same for one in pair.stages}["sft"] is None


def test_a_stage_that_both_use_was_trained_once(store: RunStore, two: tuple[str, str], make_run: MakeRun):
    cached = make_run()
    sft = store.runs([two[0]])[two[0]].tags["rlhf.run.sft"]
    link_stage(cached, "sft", sft, "print of sft", 0.0)
    (pair,) = compare_runs(store, [two[0], cached]).pairs
    assert [(one.same, one.trained_once) for one in pair.stages if one.stage == "sft"] == [(True, True)]


def test_code_and_lock_are_named_as_reasons(store: RunStore, make_run: MakeRun):
    first = make_run(stages={"sft": {}})
    lock = make_run(tags={"rlhf.lock_sha256": "2" * 64}, stages={"sft": {"fingerprint": "other"}})
    code = make_run(tags={"mlflow.source.git.commit": "b" * 40}, stages={"sft": {"fingerprint": "other"}})
    both = compare_runs(store, [first, lock, code])
    assert [pair.stages[0].reasons for pair in both.pairs] == [("lock file",), ("code",)]


def test_data(sides: Sides, two: tuple[str, str], project_root: Path, make_run: MakeRun):
    found = compare_data(*sides(*two), project_root)
    assert found.rows == {"preferences": (100, 120)}
    assert found.splits == {"preferences/train": (50, 60)}
    assert [note[:42] for note in found.notes] == [
        "A: version dddddddd is not in DVC's cache,",
        "B: version eeeeeeee is not in DVC's cache,",
    ]
    assert f"`rlhf data diff {'d' * 32}` brings it" in found.notes[0]
    for letter in "de":
        folder = project_root / ".dvc" / "cache" / "files" / "md5" / (letter * 2)
        folder.mkdir(parents=True)
        (folder / (letter * 30 + ".dir")).write_text("[{")
    found = compare_data(*sides(*two), project_root)
    assert "Rows cannot be compared: " in found.notes[0]
    same = compare_data(*sides(two[0], make_run()), project_root)
    assert same.is_same
    assert same.notes == ("B: the report of the data stage is not there, so rows are not known.",)


def test_rows_of_two_versions(sides: Sides, make_run: MakeRun, project_root: Path, store: RunStore):
    """Tracked by DVC for real."""
    from rlhf.data.versions.resolve import track

    (project_root / "data").mkdir()
    md5s = []
    for texts in (("a", "b", "c"), ("a", "b", "d", "e")):
        for kind in ("preferences", "demonstrations", "prompts"):
            rows = [row(kind, text) for text in texts]
            (project_root / "data" / f"{kind}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
        (project_root / "data" / "datasheet.md").write_text("# Letters\n")
        md5s.append(track(project_root))
        subprocess.run(["git", "add", "data.dvc", ".gitignore"], cwd=project_root, check=True)
        subprocess.run(["git", "commit", "--quiet", "--message", "Data"], cwd=project_root, check=True)
    runs = [make_run(tags={"rlhf.data_md5": md5}) for md5 in md5s]
    found = compare_data(*sides(*runs), project_root)
    assert found.changes is not None
    preferences = found.changes["preferences"]
    assert (preferences.old, preferences.new) == (3, 4)
    assert (preferences.added, preferences.removed, preferences.changed) == ({"web": 1, "lab": 1}, {"web": 1}, {})
    text = as_markdown(compare_runs(store, runs))
    assert "| preferences.jsonl | 3 | 4 | 2 | 1 | 0 |" in text
    assert "| from lab |  |  | 1 | 0 | 0 |" in text


def test_rows_of_versions_that_no_commit_records(sides: Sides, make_run: MakeRun, project_root: Path):
    """DVC's cache has them, which is enough."""
    from rlhf.data.versions.resolve import track

    (project_root / "data").mkdir()
    (project_root / "data" / "datasheet.md").write_text("# Letters\n")
    md5s = []
    for texts in (("a", "b"), ("a", "c", "d")):
        rows = [json.dumps(row("demonstrations", text)) + "\n" for text in texts]
        (project_root / "data" / "demonstrations.jsonl").write_text("".join(rows))
        md5s.append(track(project_root))
    found = compare_data(*sides(*[make_run(tags={"rlhf.data_md5": md5}) for md5 in md5s]), project_root)
    assert found.changes is not None, found.notes
    assert (found.changes["demonstrations"].old, found.changes["demonstrations"].new) == (2, 3)


def row(kind: str, text: str) -> dict[str, object]:
    said = {name: [{"role": "assistant", "content": f"{name} {text}"}] for name in ("chosen", "rejected", "completion")}
    fields = {"preferences": ("chosen", "rejected"), "demonstrations": ("completion",), "prompts": ()}[kind]
    source = {"source": "lab" if text == "e" else "web"} if kind == "preferences" else {}
    return {"prompt": [{"role": "user", "content": text}], **{name: said[name] for name in fields}, **source}


def test_curves_of_a_stage_that_the_pipeline_has_no_copies_of(sides: Sides, two: tuple[str, str], make_run: MakeRun):
    (side, _) = sides(two[0], two[1])
    assert side.curves["policy/kl_mean"] == CURVE
    later = make_run()
    set_tags(later, {"rlhf.run.policy": side.stages["policy"].run_id})
    (side, _) = sides(later, two[1])
    assert side.curves["policy/kl_mean"] == CURVE


def test_what_cannot_be_compared(store: RunStore, two: tuple[str, str]):
    with pytest.raises(InputError, match="which is named twice"):
        compare_runs(store, [two[0], two[0][:8]])
    with pytest.raises(InputError, match="1 runs were given; a comparison takes 2 to 6"):
        compare_runs(store, two[:1])
    with pytest.raises(InputError, match=f"there is no run .*{two[0]}"):
        compare_runs(store, [two[1], "0" + two[0][1:] if two[0][0] != "0" else "1" + two[0][1:]])


def test_a_file_that_was_altered_is_named(store: RunStore, two: tuple[str, str]):
    log_content(two[0], b"a: [", "config.yaml")
    with pytest.raises(InputError, match=f"run {two[0]}: config.yaml is not what the run has stored"):
        compare_runs(store, two)


class Outside(HTMLParser):
    """Finds what a page would load, and what is left open in it."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.loads += [f"{tag} {name}" for name, value in attributes if _names_a_file(name, value or "")]
        if tag in ("script", "link", "iframe", "object"):
            self.loads.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _names_a_file(attribute: str, value: str) -> bool:
    """What begins with # is within the page."""
    return attribute in ("src", "href", "xlink:href", "action") and not value.startswith("#")


def test_the_html_needs_nothing_else_and_is_well_formed(store: RunStore, two: tuple[str, str]):
    set_tags(two[0], {"alarms": "<script>alert(1)</script>"})
    page = as_html(compare_runs(store, two))
    reader = Outside()
    reader.feed(page)
    assert (reader.open, reader.loads) == ([], [])
    assert not re.findall(r"url\((?!#)", page)
    assert set(re.findall(r"https?:[^\"]*", page)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert page.count("<svg") == 1
    assert all(f"stroke: {colour}" in page for colour in BOTH)
    assert "&lt;script&gt;" in page
    assert "<script" not in page


@pytest.mark.parametrize(
    "points",
    [
        [(0, 0.0)],
        [(0, 0.5), (1, 0.5)],
        [(0, -1e-9), (3, 1e-9)],
        [(step, float((step * 7919) % 1000)) for step in range(5000)],
        [(7, 1e12), (7, -1e12)],
    ],
)
def test_any_curve_is_drawn_and_long_ones_are_thinned(
    sides: Sides, two: tuple[str, str], points: list[tuple[int, float]]
):
    drawn = [
        (replace(side, curves={"sft/loss": points}), colour) for side, colour in zip(sides(*two), BOTH, strict=True)
    ]
    chart = draw_curves("sft/loss", drawn)
    ET.fromstring(chart)
    assert all(colour in chart for colour in BOTH)
    assert max(len(re.findall("[ML] ", path)) for path in re.findall(r'<path d="([^"]*)"', chart)) <= 502


def test_markdown(store: RunStore, two: tuple[str, str]):
    text = as_markdown(compare_runs(store, two))
    assert "| rl.kl\\_coef | 0.1 | 0.2 |" in text
    assert "## Results" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count(" | ") for line in table.splitlines()[2:]}) <= 1


def test_three_runs_are_each_held_against_the_first(store: RunStore, two: tuple[str, str], make_run: MakeRun):
    found = compare_runs(store, [*two, make_run()])
    assert [(pair.first, pair.second) for pair in found.pairs] == [("A", "B"), ("A", "C")]
    text = as_markdown(found)
    assert "## Results, B against A" in text
    assert "## Results, C against A" in text


def test_the_command_prints_writes_and_keeps(
    two: tuple[str, str], tmp_path: Path, project_root: Path, capsys: pytest.CaptureFixture[str]
):
    html, markdown = tmp_path / "o.html", tmp_path / "o.md"
    arguments = ["compare", two[0][:10], two[1], "--html", str(html), "--markdown", str(markdown)]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "rl.kl_coef" in shown
    kept = f"comparisons/{two[0][:8]}-{two[1][:8]}"
    assert f"as {kept}/" in shown
    for name, file in (("comparison.html", html), ("comparison.md", markdown)):
        assert read_bytes(two[0], f"{kept}/{name}") == file.read_bytes()
    stored = read_bytes(two[0], f"{kept}/comparison.json")
    assert main(["compare", *two, "--json", "--no-log"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert stored is not None
    assert json.loads(stored) == answer
    assert answer["runs"]["B"]["run_id"] == two[1]
    assert answer["settings"]["rl.kl_coef"] == ["0.1", "0.2"]
    (win_rate,) = [one for one in answer["pairs"][0]["results"] if one["metric"] == "evaluation/win_rate"]
    assert win_rate["difference"]["noise"] == "within noise"
    assert main(["compare", two[1], two[0], "--no-log"]) == 0
    assert read_bytes(two[1], f"comparisons/{two[1][:8]}-{two[0][:8]}/comparison.md") is None
    assert main(["compare", two[1], two[0]]) == 0
    (folder,) = project_root.glob(f"mlruns/artifacts/{two[0]}/artifacts/{kept}")
    assert sorted(path.name for path in folder.iterdir()) == ["comparison.html", "comparison.json", "comparison.md"]
    (folder,) = project_root.glob(f"mlruns/artifacts/{two[1]}/artifacts/comparisons/*")
    assert sorted(path.name for path in folder.iterdir()) == [
        "comparison.json",
        "comparison.md",
    ]  # no page was asked for
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["deadbeef", "deadbeee"], "there is no run deadbeef"),
        (["abc", "deadbeef"], "abc is too short for an id"),
        (["deadbeef"], "1 runs were given"),
        (["deadbeef", "deadbeee", "--html", "nowhere/o.html"], "nowhere/o.html: cannot be written"),
        (["deadbeef", "deadbeee", "--no-logs"], "--no-logs is not a flag; the nearest known one is --no-log"),
    ],
)
@pytest.mark.usefixtures("project_root")
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["compare", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_by_the_client_of_a_server_the_same_comes_out(store: RunStore, two: tuple[str, str]):
    assert compare_runs(ClientStore(), two).as_dict() == compare_runs(store, two).as_dict()


@pytest.mark.services
def test_a_browser_draws_it_without_a_word_of_complaint(store: RunStore, two: tuple[str, str], tmp_path: Path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no Chromium")
    page, picture = tmp_path / "o.html", tmp_path / "o.png"
    page.write_text(as_html(compare_runs(store, two)))
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, env=os.environ, timeout=120)
    assert picture.stat().st_size > 20_000

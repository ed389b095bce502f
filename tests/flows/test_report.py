"""A run's report: the same words in the terminal, in MLflow, in Prefect, on the card and as a page."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from browser import opened
from markdown_it import MarkdownIt
from playwright.sync_api import expect
from retraining_runs import config, last_flow_run, shown_in

from flows.pipeline import rlhf_pipeline
from rlhf.chat.policies import find_policy
from rlhf.cli.main import main
from rlhf.headline import KEPT_SFT, verdict
from rlhf.runs.report.collect import RunReport, Sample, collect
from rlhf.runs.report.documents import as_html, as_markdown
from rlhf.tracking.queries import tags_of
from rlhf.tracking.runs import open_pipeline
from rlhf.tracking.stores import open_store

HOSTILE = "<script>alert(1)</script> ![x](http://elsewhere/x.png) **bold** | cell"


@pytest.fixture
def made(tmp_path: Path) -> RunReport:
    sample = Sample(HOSTILE, "before", "after " * 200, 0.5)
    return RunReport(
        "a" * 32, "mine, seed 0", "The policy is better.", [("win rate", "60%", "55% to 65%")], [("SFT", 61.0)],
        ["Only `18.3%` end."], "gold", [sample] * 10, 2, None,
    )  # fmt: skip


def test_the_same_words_everywhere(project: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    report = rlhf_pipeline(config(**{"name": "smoke"}))
    run_id = report.run_id
    assert main(["report", run_id[:8]]) == 0
    printed = capsys.readouterr().out
    said = verdict(report.metrics)
    assert said is not None
    assert said.endswith(KEPT_SFT), "what puts it in doubt stands first"
    assert printed.startswith(f"**{said}**\n\n| measured on held-out data | value | 95% interval |\n")
    assert "| win rate against SFT | 50.0% |" in printed
    assert "### Before and after\n\nThe first 10 test prompts, not picked." in printed
    assert "- No PPO checkpoint was chosen: the weights are those of SFT." in printed
    assert re.search(r"Computed in \d+ s; the longest stage, .*, took \d+ s\.", printed)
    described = tags_of(run_id)["mlflow.note.content"]
    assert described.endswith(printed)
    assert said in Path(report.model_card).read_text().split("## Use")[0]
    assert said in shown_in(last_flow_run())["report"]

    page = tmp_path / "report.html"
    assert main(["report", run_id, "--html", str(page)]) == 0
    text = page.read_text()
    assert said in text
    assert text.count("<article data-gain") == report.metrics["evaluation/num_responses"]
    assert "data:image/png;base64," in text
    assert not re.search(r'(src|href)="(?!data:)', text), "it asks nobody for anything"


def test_the_cards_code_runs_as_it_stands(project: Path):
    folder = find_policy(None).folder
    (code,) = re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "{" not in done.stdout, "an answer, and no tensor"


def test_what_people_wrote_is_text_on_every_page(made: RunReport):
    markdown, html = as_markdown(made), as_html(made)
    shown = MarkdownIt("gfm-like", {"linkify": False}).render(markdown)
    before_our_own, _, _ = html.partition("<script>\nconst form")
    assert len(before_our_own) < len(html)
    assert not re.search(r"<(script|img|a)\b", shown + before_our_own)
    assert "<strong>bold" not in shown
    assert "<code>18.3%</code>" in html
    assert "2 alarms went off in training." in markdown


def test_a_description_holds_as_many_samples_as_fit(made: RunReport):
    whole, short = as_markdown(made), as_markdown(made, 4000)
    assert len(short) <= 4001 < len(whole)
    assert "The first 2 test prompts" in short
    assert "### Limitations" in as_markdown(made, 400)


def test_a_run_that_has_come_to_nothing(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_id = open_pipeline("smoke", None, {"name": "smoke"}, {})
    assert main(["report", run_id]) == 2
    assert "has no output of the stage evaluation" in capsys.readouterr().err
    assert main(["report", run_id, "--html", str(tmp_path)]) == 2
    assert "it is a folder; give a file" in capsys.readouterr().err
    assert collect(open_store(), find_policy(None).run_id or "").samples


@pytest.mark.services
def test_samples_are_filtered_and_ordered(made: RunReport, tmp_path: Path):
    gains = [0.0, -1.0, *(float(number) for number in range(1, 44))]
    samples = [Sample(f"What is {number}?", "Before", f"After {gain}", gain) for number, gain in enumerate(gains)]
    file = tmp_path / "report.html"
    file.write_text(as_html(replace(made, samples=samples)))
    with opened() as page:
        page.goto(file.as_uri())
        articles, said = page.locator("article:visible"), page.locator("output")
        expect(said).to_have_text("20 of 45 shown")
        page.get_by_role("button", name="Show more").click()
        expect(articles).to_have_count(40)
        page.get_by_label("Order").select_option("largest loss first")
        expect(articles.first).to_contain_text("What is 1?")
        page.get_by_label("Better").select_option("policy")
        expect(said).to_have_text("20 of 43 shown")
        expect(articles.first).to_contain_text("After 1.0")
        page.get_by_label("Text").fill("AFTER 43")
        expect(articles).to_have_count(1)
        page.get_by_label("Better").select_option("SFT policy")
        expect(said).to_have_text("0 of 0 shown")
        expect(page.get_by_role("button", name="Show more")).to_be_hidden()


@pytest.mark.services
def test_the_page_in_light_and_dark_fits_a_phone(made: RunReport, tmp_path: Path):
    file = tmp_path / "report.html"
    file.write_text(as_html(made))
    with opened(width=390, height=800) as page:
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light

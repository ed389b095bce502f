"""What a person sees of a run that is under way."""

import io
import logging
from typing import Any

import pytest

from rlhf.cli import progress_view as shown_by
from rlhf.cli.progress_view import StageRow, View, progress_view
from rlhf.progress import Measured, Sampled, StageBegan, StageEnded, report_progress, tell
from rlhf.text.console import TextConsole

STAGES = ("data", "sft", "policy")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(shown_by.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def view() -> View:
    return View({stage: StageRow() for stage in STAGES})


def seen(view: View) -> list[list[str]]:
    """The words of each line, in 80 columns."""
    console = TextConsole(width=80)
    console.file = io.StringIO()
    console.print(view.render())
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_all_stages_are_there_at_once(view: View, clock: list[float]):
    assert seen(view) == [[stage, "waiting"] for stage in STAGES]
    view.hear(StageBegan("data"))
    clock[0] += 5
    assert seen(view)[0] == ["data", "running", "0:00:05"]
    view.hear(StageEnded("data", "cached", 1.2))
    assert seen(view)[0] == ["data", "cached", "0:00:01"]


def test_steps_of_minutes_have_a_time_remaining(view: View, clock: list[float]):
    """rich's own bar forgets steps after 30 seconds."""
    view.hear(StageBegan("policy"))
    view.show("policy", 14, 48)
    assert seen(view)[2][-1] == "14/48"
    for done in (15, 16, 17, 18):
        clock[0] += 40
        view.show("policy", done, 48)
    assert seen(view)[2][-3:] == ["18/48", "0:20:00", "left"]
    assert all(len(" ".join(line)) < 80 for line in seen(view))


def test_what_ppo_measures_is_drawn(view: View, clock: list[float]):
    for score, kl in ((0.0, 0.1), (0.5, 0.1), (1.0, 0.1)):
        view.hear(Measured("policy", {"policy/score_mean": score, "policy/kl_mean": kl, "policy/ratio_error": 0.0}))
    assert seen(view)[-1] == ["score", "▁▅█", "+1.00", "KL", "▁▁▁", "0.10"]


def test_each_attempt_at_a_stage_has_a_line(clock: list[float]):
    """What a stage reports belongs to the attempt that it is at."""
    view = View({name: StageRow() for name in ("policy.1", "feedback", "policy")})
    view.hear(StageBegan("policy.1"))
    view.show("policy", 2, 2)
    view.hear(StageEnded("policy.1", "trained", 3))
    view.hear(StageBegan("feedback"))
    view.hear(StageEnded("feedback", "cached", 1))
    view.hear(StageBegan("policy"))
    view.show("policy", 1, 2)
    lines = seen(view)
    assert [line[:2] for line in lines] == [["policy.1", "trained"], ["feedback", "cached"], ["policy", "running"]]
    assert lines[2][-1] == "1/2"


def test_the_next_seed_begins_anew(view: View, clock: list[float]):
    for stage in STAGES:
        view.hear(StageBegan(stage))
        view.hear(StageEnded(stage, "trained", 3))
    view.hear(Measured("policy", {"policy/score_mean": 1.0}))
    view.hear(StageBegan("data"))
    assert [line[1] for line in seen(view)] == ["running", "waiting", "waiting"]


def test_a_stage_alone_is_shown_once_it_reports(clock: list[float]):
    view = View({})
    assert seen(view) == [[]]
    view.show("push", 1, 2)
    assert seen(view)[0][0] == "push"


@pytest.mark.parametrize("terminal", ["", "dumb"])
def test_in_a_log_it_is_a_line_every_thirty_seconds(
    terminal: str, clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", terminal)
    with progress_view(STAGES):
        tell(StageBegan("sft"))
        tell(StageBegan("policy", 14))
        for done in range(15, 41):
            report_progress("policy", done, 40)
            clock[0] += 9
        tell(StageBegan("policy"))  # of another seed
        report_progress("policy", 1, 40)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "policy: going on from 14",
        "policy: 15 of 40",
        "policy: 19 of 40, 0:03:09 left",
        "policy: 23 of 40, 0:02:33 left",
        "policy: 27 of 40, 0:01:57 left",
        "policy: 31 of 40, 0:01:21 left",
        "policy: 35 of 40, 0:00:45 left",
        "policy: 39 of 40, 0:00:09 left",
        "policy: 40 of 40",
        "policy: 1 of 40",
    ]


def test_a_stage_that_was_killed_says_from_where_it_goes_on(view: View, clock: list[float]):
    view.hear(StageBegan("policy", 14))
    clock[0] += 2
    view.show("policy", 15, 48)
    assert " ".join(seen(view)[2][:5]) == "policy going on from 14"
    view.hear(StageEnded("policy", "trained", 60))
    assert seen(view)[2] == ["policy", "trained", "0:01:00"]


def test_one_answer_is_shown_on_one_line(view: View, clock: list[float]):
    view.hear(Sampled("policy", 8, "What is\n3 + 4 ?", "It is 7 .\x1b[2J" + " and so on" * 20))
    last = seen(view)[-1]
    assert last[:10] == ["after", "8:", "What", "is", "3", "+", "4", "?", "->", "It"]
    assert any("\\u001b[2J" in word for word in last)
    assert len(" ".join(last)) <= 80
    view.hear(Sampled("policy", 16, "Why ?", "No ."))
    assert seen(view)[-1] == ["after", "16:", "Why", "?", "->", "No", "."]


def test_on_a_terminal_nothing_of_it_is_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with progress_view(STAGES):
        tell(StageBegan("sft"))
        report_progress("sft", 1, 2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert " of " not in shown.err
    assert shown.err.rstrip().endswith("\x1b[?25h"), "the cursor is there again"


def test_warnings_of_the_project_are_shown_and_its_chatter_is_not(capsys: Any, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "rlhf")
    before = list(logging.getLogger("rlhf").handlers)
    with progress_view():
        logging.getLogger("rlhf.rl").warning("half of the values are clipped")
        logging.getLogger("rlhf.rl").info("update 3")
    shown = capsys.readouterr().err
    assert "half of the values are clipped" in shown
    assert "update 3" not in shown
    assert logging.getLogger("rlhf").handlers == before

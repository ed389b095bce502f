"""`rlhf runs` on a real store."""

import json
import re
from pathlib import Path

import pytest
from compared_runs import MakeRun, evaluation

from rlhf.cli.main import main
from rlhf.runs.filters import Filters
from rlhf.runs.listing import MetricValue, list_runs
from rlhf.tracking.groups import open_group
from rlhf.tracking.records import RunStore
from rlhf.tracking.runs import close_run, log_metrics, open_pipeline
from rlhf.tracking.tags import GROUP_TAG, SEEDS_TAG

pytestmark = pytest.mark.usefixtures("project_root")


def test_a_row_says_what_came_of_a_run(make_run: MakeRun, store: RunStore):
    stages = {
        "policy": {},
        "evaluation": evaluation([1.0, 0.0, 1.0, 1.0]) | {"made": "other"},
        "reward_audit": {"metrics": {f"reward_audit/accuracy{end}": 0.8 for end in ("", "_low", "_high")}},
    }
    tags = {"rlhf.verdict": "promoted", "alarms": "negative_kl,eos_rate_fall", "rlhf.git_dirty": "true"}
    run_id = make_run(tags=tags | {"rlhf.policy_version": "7"}, stages=stages)
    (row,) = list_runs(store, Filters(), 20).rows
    assert row.name == "demo, seed 0"
    assert (row.run_id, row.recipe, row.seed, row.commit, row.dirty) == (run_id, "demo", "0", "a" * 40, True)
    assert (row.state, row.verdict, row.reproducible) == ("finished", "promoted", True)
    assert row.policy_version == "rlhf-policy/7"
    assert row.alarms == ("negative_kl", "eos_rate_fall")
    assert row.reward_accuracy == MetricValue(0.8, 0.8, 0.8)
    assert row.gold_gain is not None
    assert row.gold_gain.value == 0.75
    assert row.gold_gain.low is not None
    assert row.gold_gain.low < 0.75
    assert row.kl is None


def test_a_run_that_has_only_begun(store: RunStore):
    run_id = open_pipeline("demo", None, {}, {"recipe": "demo"})
    (row,) = list_runs(store, Filters(), 20).rows
    assert (row.run_id, row.state, row.commit, row.data_md5, row.reproducible) == (run_id, "running", None, None, None)
    assert (row.gold_gain, row.alarms, row.policy_version, row.aliases) == (None, (), None, ())


def test_filters_and_limit(make_run: MakeRun, store: RunStore):
    demos = [make_run(stages={"evaluation": evaluation([1.0, 0.0, rate])}) for rate in (0.0, 1.0)]
    other = make_run(tags={"recipe": "hh", "rlhf.data_md5": "e" * 32, "rlhf.reproducible": "false"})
    close_run(other, "FAILED")

    def found(limit: int = 20, **filters: object) -> tuple[list[str], int]:
        listing = list_runs(store, Filters(**filters), limit)  # type: ignore[arg-type]
        return [row.run_id for row in listing.rows], listing.total

    assert found() == ([other, demos[1], demos[0]], 3)
    assert found(limit=1) == ([other], 3)
    assert found(recipe="demo") == ([demos[1], demos[0]], 2)
    assert found(recipe="demo", limit=1) == ([demos[1]], 2)
    assert found(state="failed") == found(data="ee") == found(reproducible=False) == ([other], 1)
    assert found(metrics=("evaluation/win_rate>0.7",)) == ([demos[1]], 1)
    assert found(metrics=("evaluation/win_rate>0.7", "evaluation/win_rate<0.8")) == ([], 0)
    assert found(since="1h")[1] == 3
    assert found(since="2999-01-01") == ([], 0)


def test_the_command(make_run: MakeRun, capsys: pytest.CaptureFixture[str]):
    assert main(["runs"]) == 0
    assert capsys.readouterr().out == "There are no runs yet.\n"
    ids = [make_run(stages={"evaluation": evaluation([1.0, 0.0, 1.0])}) for _ in range(3)]
    assert main(["runs", "--limit", "2"]) == 0
    shown = capsys.readouterr().out
    assert ids[2][:8] in shown
    assert ids[2] not in shown
    assert ids[0][:8] not in shown
    assert "+0.667" in shown
    assert "1 more; --limit 3 shows all." in shown
    assert "37% to 97%" in shown  # what is no terminal gets all columns
    assert main(["runs", "--full-ids"]) == 0
    shown = capsys.readouterr().out
    assert all(run_id in shown for run_id in ids)
    assert "more" not in shown
    assert main(["runs", "--recipe", "nowhere"]) == 0
    assert capsys.readouterr().out == "No run meets these filters.\n"
    assert main(["runs", "--json", "--limit", "1"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["total"] == 3
    assert [run["run_id"] for run in answer["runs"]] == [ids[2]]
    assert answer["runs"][0]["win_rate"]["value"] == pytest.approx(5 / 6)


@pytest.mark.parametrize("columns", [80, 64, 120])
def test_a_terminal_has_a_line_for_each_run(
    columns: int, make_run: MakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    for variable, value in {"FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm", "COLUMNS": str(columns)}.items():
        monkeypatch.setenv(variable, value)
    stages = {"evaluation": evaluation([1.0, 0.0, 1.0])}
    tags = {"rlhf.policy_version": "demo/7", "rlhf.git_dirty": "true"}
    ids = [make_run(name=name, tags=tags, stages=stages) for name in ("demo, seed 0, 1e41114e1", "x" * 60)]
    assert main(["runs"]) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).strip().splitlines()
    assert max(map(len, lines)) <= columns
    header, _, long, old = lines
    assert header.split()[:2] == ["run", "name"]
    assert [line[:8] for line in (long, old)] == [run_id[:8] for run_id in reversed(ids)]
    assert ("…" in long) == (columns < 120)
    assert all("finished" in line and "+0.667" in line and "83.3%" in line for line in (long, old))
    assert ("demo/7" in old) == (columns == 120)
    if columns == 80:
        assert "demo, seed 0, 1e41114e1" in old


def test_groups_and_the_runs_of_one(make_run: MakeRun, capsys: pytest.CaptureFixture[str]):
    assert main(["runs", "--groups"]) == 0
    assert capsys.readouterr().out == "There are no groups yet.\n"
    tags = {"recipe": "demo", "mlflow.source.git.commit": "a" * 40, SEEDS_TAG: "7,11"}
    group, _ = open_group("demo, 2 seeds", "key", "flow", {"rl": {"kl_coef": 0.1}}, tags)
    member, other = make_run(tags={GROUP_TAG: group}), make_run()
    gain = "group/evaluation/gold_gain"
    log_metrics(group, {gain: 0.335, f"{gain}_low": 0.293, f"{gain}_high": 0.377, "group/num_seeds": 2.0})

    assert main(["runs"]) == 0
    shown = capsys.readouterr().out
    assert member[:8] in shown
    assert other[:8] in shown
    assert not any(line.startswith(group[:8]) for line in shown.splitlines())
    assert main(["runs", "--group", group[:8], "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(run["run_id"], run["group"]) for run in listed["runs"]] == [(member, group)]

    assert main(["runs", "--groups"]) == 0
    shown = capsys.readouterr().out
    assert "demo, 2 seeds" in shown
    assert "7,11" in shown
    assert "+0.335" in shown
    assert "+0.29 to +0.38" in shown
    assert "intervals over seeds" in shown
    assert member[:8] not in shown
    for text, number in (("evaluation/gold_gain>0.3", 1), (f"{gain}>0.3", 1), ("evaluation/gold_gain>0.4", 0)):
        assert main(["runs", "--groups", "--metric", text, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["total"] == number


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--group", "x"], "--group x: expected the first characters of a hash"),
        (["--groups", "--group", "abc"], "--group: pipeline runs have that, and groups do not"),
        (["--groups", "--verdict", "promoted"], "--verdict: pipeline runs have that, and groups do not"),
        (["--groups", "--reproducible"], "--reproducible: pipeline runs have that, and groups do not"),
        (["--groups", "--metric", "sft/loss>1"], "group/sft/loss is no metric; the nearest one that groups bear is"),
        (["--metric", "group/evaluation/kl>1"], "group/evaluation/kl is of groups, which --groups lists; the nearest"),
        (["--limit", "0"], "--limit 0: expected a whole number at least 1"),
        (["--since", "soon"], "--since soon: expected a span"),
        (["--metric", "win_rate>0.6"], "win_rate is no metric; the nearest one"),
        (["--recipes", "demo"], "--recipes is not a flag; the nearest known one is --recipe"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["runs", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_project_in_which_nothing_was_run(project_root: Path, capsys: pytest.CaptureFixture[str]):
    (project_root / "mlruns" / "mlflow.db").unlink()
    assert main(["runs"]) == 2
    assert "nothing was run in this project yet" in capsys.readouterr().err
    assert not (project_root / "mlruns" / "mlflow.db").exists()

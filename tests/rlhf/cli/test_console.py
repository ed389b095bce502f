import sys
from pathlib import Path

import pytest

from rlhf.cli.console import print_group, print_report, print_ui_commands
from rlhf.references import GroupReport, PipelineReport, SeedReport, SeedStatistics, StageReport


@pytest.fixture
def report(tmp_path):
    return PipelineReport(
        run_id="abc",
        metrics={
            "evaluation/win_rate": 0.75,
            "evaluation/win_rate_low": 0.7,
            "evaluation/win_rate_high": 0.8,
            "evaluation/score_win_rate": 0.95,
            "evaluation/kl": 3.14159,
            "policy/score_std": 99.0,
        },
        stages=[
            StageReport(name="sft", state="cached", run_id="r1", seconds=0.2, trained_seconds=45.04),
            StageReport(name="policy", state="trained", run_id="r2", seconds=61.0, trained_seconds=61.0),
        ],
        policy_path=str(tmp_path / "policy"),
        model_card=str(tmp_path / "policy" / "README.md"),
    )


def test_report_shows_stages_measures_and_places(report, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    print_report(report)
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in capsys.readouterr().out.splitlines()]
    assert ["sft", "cached", "0.2", "45.0"] in rows
    assert ["policy", "trained", "61.0", "61.0"] in rows
    assert ["win rate against SFT", "75.0%", "70.0% to 80.0%"] in rows
    assert ["the same, by the first reward model", "95.0%", ""] in rows
    assert ["KL to the SFT policy, nats/response", "3.14", ""] in rows
    assert ["Model card: policy/README.md"] in rows
    assert not any("99" in "".join(row) for row in rows)


@pytest.mark.parametrize(
    ("metrics", "verdict", "notes"),
    [
        ({"policy/chosen_update": 8.0, "policy/num_alarms": 0.0}, "The policy is better than the SFT policy", []),
        (
            {"policy/chosen_update": 0.0, "evaluation/kl": 0.0, "policy/num_alarms": 0.0},
            "No checkpoint was better than the SFT policy",
            [],
        ),
        ({"policy/num_alarms": 1.0}, "The policy is better", ["1 alarm went off in training"]),
        (
            {"policy/chosen_update": 0.0, "evaluation/kl": 0.0, "policy/num_alarms": 2.0},
            "No checkpoint",
            ["2 alarms went off in training"],
        ),
    ],
)
def test_report_says_what_the_figures_cannot_be_read_without(report, metrics, verdict, notes, capsys):
    print_report(report.model_copy(update={"metrics": report.metrics | metrics}))
    lines = capsys.readouterr().out.splitlines()
    first, last = (number for number, line in enumerate(lines) if line.startswith("└"))
    assert lines[first + 1].startswith(verdict)
    after = lines[last + 1 :]
    said = after[: next(number for number, line in enumerate(after) if line.startswith("Model card"))]
    assert len(said) == len(notes)
    assert all(line.startswith(note) for line, note in zip(said, notes, strict=True))


def test_a_group_shows_both_intervals_in_120_columns(capsys):
    kl = "evaluation/kl"
    seeds = [
        SeedReport(seed=seed, run_id=f"{seed:032x}", metrics={"evaluation/gold_gain": 0.3, kl: 0.1 * seed})
        for seed in range(5)
    ]
    seeds[1] = seeds[1].model_copy(update={"metrics": {kl: 0.1, f"{kl}_low": 0.05, f"{kl}_high": 0.15}})
    seeds.append(SeedReport(seed=9, run_id=None, error="gone"))
    over = {kl: SeedStatistics(num_seeds=5, mean=0.2, std=0.05, low=0.14, high=0.26)}
    print_group(GroupReport(run_id="g", recipe="demo", seeds=tuple(seeds), statistics=over, notes=("Beware.",)))
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    words = "KL to the SFT policy, nats/response"
    assert ["9", "failed", "", ""] in rows
    assert ["1", "finished", f"{1:032x}", ""] in rows
    assert [words, "0.20", "0.14 to 0.26", "0.05", "5"] in rows
    assert [words, "0.00", "0.10", "0.20", "0.30"] in rows
    assert ["", "", "0.05 to 0.15", "", ""] in rows
    assert [words, "0.40"] in rows
    assert ["gold reward, gain", "+0.300", "", "+0.300", "+0.300"] in rows
    assert ["Beware."] in rows
    assert max(map(len, lines)) <= 120


def test_a_group_of_which_one_seed_finished_says_nothing_over_seeds(capsys):
    seeds = (SeedReport(seed=1, run_id="r", metrics={"evaluation/kl": 0.1}), SeedReport(seed=2, run_id=None, error="x"))
    print_group(GroupReport(run_id="g", recipe="demo", seeds=seeds, statistics={}))
    shown = capsys.readouterr().out
    assert "0.10" in shown
    assert "over seeds" not in shown


def test_report_elsewhere_has_whole_paths(report, tmp_path, monkeypatch, capsys):
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    print_report(report)
    assert f"Policy:     {tmp_path}/policy\n" in capsys.readouterr().out


def test_ui_commands_of_local_stores(tmp_path, monkeypatch, capsys):
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RLHF_ROOT", str(tmp_path))
    monkeypatch.chdir(Path(sys.executable).parent.parent.parent)
    print_ui_commands("http://127.0.0.1:5000/#/experiments/3?workflowType=machine_learning")
    assert capsys.readouterr().out.splitlines() == [
        "Prefect: http://127.0.0.1:4200",
        "MLflow: http://127.0.0.1:5000/#/experiments/3?workflowType=machine_learning",
        "  .venv/bin/rlhf up",
    ]
    print_ui_commands("http://127.0.0.1:5000/#/experiments/3", "the-flow-run", "0123456789")
    assert capsys.readouterr().out.splitlines() == [
        "Prefect: http://127.0.0.1:4200/runs/flow-run/the-flow-run",
        "MLflow: http://127.0.0.1:5000/#/experiments/3",
        "  .venv/bin/rlhf open 01234567",
    ]


def test_ui_of_servers_that_run_already(monkeypatch, capsys):
    monkeypatch.setenv("PREFECT_API_URL", "http://house:4200/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://house:5000/")
    print_ui_commands()
    assert capsys.readouterr().out.splitlines() == [
        "Prefect: http://house:4200",
        "MLflow: http://house:5000/#/experiments?workflowType=machine_learning",
    ]

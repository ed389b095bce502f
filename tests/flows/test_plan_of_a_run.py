"""A plan says what a run then does: cached or computed, why, and what the data will not show."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from retraining_runs import SMOKE, config

from flows.pipeline import rlhf_pipeline
from flows.plan import plan_run
from rlhf.cli.main import main
from rlhf.planning.preflight import preflight
from rlhf.tracking.records import Condition, RunRecord, RunStore
from rlhf.tracking.stores import open_store
from rlhf.tracking.tags import MACHINE_TAG, STAGE_TAG

COMMAND = ["plan", str(SMOKE), "--compute.num-threads", "1", "--data.embedded", "none"]


def planned(**settings: Any) -> dict[str, bool]:
    return {stage.name: stage.cached for stage in plan_run(config(**settings), open_store()).stages}


def test_a_plan_is_what_a_run_then_does(project: Path):
    assert set(planned().values()) == {True}
    changed = {"rl.kl_coef": 0.2}
    plan = planned(**changed)
    report = rlhf_pipeline(config(**changed))
    assert plan == {stage.name: stage.state == "cached" for stage in report.stages if stage.name != "model_card"}
    assert [name for name, cached in plan.items() if not cached] == ["policy", "evaluation"]
    assert set(planned(**changed).values()) == {True}


def test_it_says_why_and_how_long_and_changes_nothing(project: Path):
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*") if path.suffix != ".db"}
    plan = plan_run(config(**{"rl.kl_coef": 0.2, "rl.num_updates": 8}), open_store())
    stages = {stage.name: stage for stage in plan.stages}
    assert stages["policy"].why == "rl.kl_coef was 0.1, is 0.2; rl.num_updates was 4, is 8"
    assert stages["evaluation"].why == "behind policy"
    usual = plan_run(config(**{"rl.kl_coef": 0.2}), open_store())
    seconds, memory = (
        {stage.name: getattr(stage, name) for stage in usual.stages} for name in ("seconds", "memory_mb")
    )
    ran = open_store().search([Condition("tag", STAGE_TAG, "=", "policy")], 1)[0].metrics
    assert seconds["policy"] == pytest.approx(ran["policy/trained_seconds"])
    assert memory["policy"] == pytest.approx(ran["policy/peak_memory_mb"])
    assert 200 < ran["policy/peak_memory_mb"] < 5000
    assert 1.3 < (stages["policy"].seconds or 0) / seconds["policy"] < 2.0, (
        "twice the updates, and what a stage takes anyway"
    )
    assert stages["policy"].memory_mb == memory["policy"], "the number of updates is not in memory"
    assert stages["policy"].measured
    assert plan.seconds == pytest.approx((stages["policy"].seconds or 0) + (stages["evaluation"].seconds or 0))
    other = plan_run(config(**{"model.architecture.hidden_size": 64}), open_store())
    larger = {stage.name: stage for stage in other.stages}
    assert (larger["policy"].memory_mb or 0) > memory["policy"]
    assert (larger["sft"].seconds or 0) > 0
    elsewhere = plan_run(config(**{"rl.kl_coef": 0.2}), OtherMachine(open_store()))
    assert not any(stage.measured for stage in elsewhere.stages), "a run on another machine says nothing of this one"
    assert elsewhere.unknown == []
    assert {path: path.stat().st_mtime_ns for path in project.rglob("*") if path.suffix != ".db"} == before


class OtherMachine:
    """The store, as if all its runs had been on another machine."""

    def __init__(self, store: RunStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def search(self, conditions: Sequence[Condition], limit: int) -> list[RunRecord]:
        runs = self._store.search(conditions, limit)
        return [replace(run, tags={**run.tags, MACHINE_TAG: "a calculator, 1 cores"}) for run in runs]


def test_a_recipe_that_does_not_fit_is_refused_with_what_would(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    large = ["--model.architecture.hidden-size", "8192", "--model.architecture.num-layers", "32"]
    large += ["--model.architecture.feed-forward-size", "22016", "--compute.dtype", "bf16"]
    monkeypatch.setattr("rlhf.planning.survey.memory_of", lambda device: 60 * 10**9)
    assert main([*COMMAND, *large]) == 2
    told = capsys.readouterr()
    said = " ".join(told.err.split())
    assert "does not fit: its policy takes about" in said
    assert "and this machine has 60.0 GB (cpu), of which a run may take 90%; take a base of at most" in said
    assert "Memory: " in told.out
    monkeypatch.setattr("rlhf.planning.survey.memory_of", lambda device: 40 * 10**9)
    assert main([*COMMAND, *large[:2], "--model.architecture.num-layers", "4"]) == 2
    said = capsys.readouterr().err
    flags = said[said.index("--") :].split()
    assert "it takes" in said
    assert main([*COMMAND, *large[:2], "--model.architecture.num-layers", "4", *flags]) == 0


def test_the_command_for_people_and_for_programs(project: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*COMMAND, "--rl.kl-coef", "0.2"]) == 0
    shown = capsys.readouterr().out
    assert "PPO: 4 updates of 32 responses of at most 20 tokens" in shown
    assert "rl.kl_coef was 0.1, is 0.2" in " ".join(shown.replace("│", " ").split())
    assert "Time: about 0:00:" in shown
    assert ", by earlier runs on this machine." in shown
    assert "Memory: " in shown
    assert "Beware: 60 test prompts: only a win rate above 63% can be told from 50%" in " ".join(shown.split())
    assert all(len(line) <= 80 for line in shown.splitlines() if "│" in line)
    assert main([*COMMAND, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {stage["cached"] for stage in plan["stages"]} == {True}
    assert (plan["seconds"], plan["unknown"], len(plan["warnings"])) == (0, [], 1)


def test_before_any_run_and_without_data(project_root: Path, capsys: pytest.CaptureFixture[str]):
    (project_root / "mlruns" / "mlflow.db").unlink()
    assert main(["plan", str(SMOKE), "--data.embedded", "none", "--data.path", "nowhere"]) == 2
    assert "there is no such file or folder" in capsys.readouterr().err
    assert not (project_root / "mlruns" / "mlflow.db").exists()


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A data stage's output in which answers are long, the longer one is chosen, and labels contradict each other."""

    def say(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    def ask(number: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"Why {number} ?"}]

    pairs = [(ask(number), "so " * 30, "no") for number in range(20)] + [(ask(0), "no", "so " * 30)]
    (tmp_path / "preferences").mkdir()
    (tmp_path / "prompts").mkdir()
    rows = [{"prompt": prompt, "chosen": say(best), "rejected": say(worst)} for prompt, best, worst in pairs]
    for file, content in (
        (tmp_path / "preferences" / "train.jsonl", rows),
        (tmp_path / "prompts" / "test.jsonl", [{"prompt": ask(number)} for number in range(2)]),
    ):
        file.write_text("".join(json.dumps(row) + "\n" for row in content))
    return tmp_path


def test_what_the_data_will_not_show(prepared: Path, project: Path):
    from rlhf.chat.policies import find_policy
    from rlhf.modeling.tokenizer import load_tokenizer

    said = list(preflight(prepared, load_tokenizer(find_policy(None).folder), config()))
    assert len(said) == 4
    assert said[0].startswith("2 test prompts: no win rate can be told from 50%")
    assert "95% of the chosen responses are longer than rl.max_response_tokens (20)" in said[1]
    assert "the longer response was chosen in 95% of the pairs" in said[2]
    assert said[3] == "1 pairs were judged both ways; their labels cancel out"

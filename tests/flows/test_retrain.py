"""Retraining on configs/smoke.yaml: a real Prefect server, MLflow store, and git and DVC repository."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.states import AwaitingRetry
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate
from retraining_runs import (
    ASK,
    OPEN,
    REPOSITORY,
    Deployment,
    config,
    flow_run,
    last_flow_run,
    mlflow_run,
    outcome,
    promotion_told,
    shown_in,
)

from flows import forms
from flows.retrain import retrain
from rlhf.config.retrain import RetrainConfig, SafetyGate
from rlhf.errors import ArtifactMismatchError, ConfigError, DataError, ModelError
from rlhf.references import ComparisonRef, RewardModelsRef
from rlhf.tracking import artifacts, registry
from rlhf.tracking import client as tracking_client
from rlhf.tracking.client import run_url
from rlhf.tracking.queries import pipeline_runs, tags_of
from rlhf.tracking.registry import Promotion


def write_inbox(project: Path, count: int) -> None:
    (project / "inbox").mkdir(exist_ok=True)
    rows = [
        {"prompt": f"What is {number} + 1 ?", "chosen": "The answer is 5 .", "rejected": "The answer is 4 ."}
        for number in range(count)
    ]
    (project / "inbox" / "week.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def last_trained() -> str:
    return next(iter(pipeline_runs("rlhf.kind", "pipeline")))


def stored_reward_models() -> Path:
    """Those of any run that came so far."""
    runs = pipeline_runs("rlhf.kind", "pipeline")
    trained = next(run_id for run_id, tags in runs.items() if "rlhf.run.reward_model" in tags)
    return artifacts.local_path(artifacts.output_of(trained, "reward_model", RewardModelsRef)[0])


@pytest.mark.usefixtures("project")
def test_the_first_champion_then_nothing_new():
    first = retrain(config(), OPEN)
    assert (first.verdict, first.champion) == ("promoted", "smoke/1")
    assert first.proposal is not None
    assert (first.proposal.champion, first.proposal.gates) == (None, ())
    run = last_flow_run()
    assert outcome(run) == "promoted"
    assert run.name == "smoke, registered true, embedded none, num_threads 1, seed 0: promoted"
    assert "Version smoke/1 is the champion, the first there is." in shown_in(run)["retrain-verdict"]
    tags = mlflow_run(first).data.tags
    assert tags["rlhf.verdict"] == "promoted"
    assert "rlhf.run.comparison" in tags
    (last,) = registry.promotions()
    assert (last.state, last.flow_run_id) == ("done", str(run.id))

    assert promotion_told(run_url(first.proposal.run_id))["message"] == first.reason

    runs = len(pipeline_runs("rlhf.kind", "pipeline"))
    again = retrain(config(), RetrainConfig())
    assert (again.verdict, again.champion, again.data_md5) == ("no new data", "smoke/1", first.data_md5)
    assert outcome(last_flow_run()) == "no new data"
    assert "was trained on this version of the data" in shown_in(last_flow_run())["retrain-verdict"]
    assert len(pipeline_runs("rlhf.kind", "pipeline")) == runs


@pytest.mark.usefixtures("project")
def test_a_gate_that_fails_says_which_and_by_how_much():
    strict = RetrainConfig(minimum_fitness="fit", minimum_win_rate=1.0, minimum_reward_gain=None, maximum_kl=1e9)
    report = retrain(config(gates=[{"figure": "evaluation/win_rate", "at_least": 1.0}]), strict)
    run = last_flow_run()
    assert (report.verdict, report.champion) == ("rejected", None)
    assert report.proposal is not None
    assert report.proposal.failed == ("reward_models", "evaluation/win_rate", "win_rate"), "of 0.2 epochs none is fit"
    assert outcome(run) == "rejected by reward_models, evaluation/win_rate, win_rate"
    assert run.state is not None
    assert run.state.is_completed()
    shown = shown_in(run)
    assert "must be at least 1 (off by 0." in shown["retrain-verdict"]
    rows = json.loads(shown["gates"])
    held = {"reward_models": "no", "evaluation/win_rate": "no", "win_rate": "no", "kl": "yes", "length_growth": "yes"}
    assert {row["gate"]: row["held"] for row in rows} == held
    assert rows[0]["limit"] == "at least fit"
    assert "reward_models: the audit calls them " in report.reason
    assert mlflow_run(report).data.tags["rlhf.verdict_reason"] in report.reason


def test_new_feedback_makes_a_candidate_that_meets_the_champion(project: Path):
    assert retrain(config(), OPEN).champion == "smoke/1"
    write_inbox(project, 40)
    inbox = {"source": "inbox", "inbox": "inbox"}
    rejected = retrain(config(), RetrainConfig(**inbox, minimum_win_rate=1.0))
    assert rejected.verdict == "rejected"
    assert rejected.proposal is not None
    assert (rejected.proposal.candidate, rejected.proposal.champion, rejected.champion) == (
        "smoke/2",
        "smoke/1",
        "smoke/1",
    )
    assert not list((project / "inbox").glob("*.jsonl"))
    # The same candidate, found cached, and other limits.
    promoted = retrain(config(), OPEN.model_copy(update=inbox))
    assert promoted.proposal is not None
    assert (promoted.verdict, promoted.champion, promoted.proposal.champion) == ("promoted", "smoke/2", "smoke/1")
    assert promoted.data_md5 == rejected.data_md5
    assert retrain(config(), OPEN.model_copy(update=inbox)).verdict == "no new data"


@pytest.mark.usefixtures("project")
def test_a_branch_with_the_champions_data_is_nothing_new():
    retrain(config(), OPEN)
    report = retrain(config(), OPEN.model_copy(update={"source": "branch", "branch": "main"}))
    assert report.verdict == "no new data"


@pytest.mark.usefixtures("project")
def test_a_champion_that_is_gone_is_one_error():
    retrain(config(), OPEN)
    champion = registry.champion("smoke")
    assert champion is not None
    folder = artifacts.local_path(champion.policy)
    shutil.rmtree(folder)
    with pytest.raises(ArtifactMismatchError, match=f"version smoke/1: {folder}"):
        retrain(config(), OPEN)
    assert registry.champion_version("smoke") == "smoke/1"


@pytest.mark.usefixtures("project")
def test_a_promotion_that_was_cut_off_is_undone_first():
    pending = Promotion(state="pending", champion=None, to="smoke/1", flow_run_id="gone", at="then")
    tracking_client.client().set_registered_model_tag("smoke", "promotion", pending.model_dump_json(by_alias=True))
    assert retrain(config(), RetrainConfig(minimum_win_rate=1.0)).verdict == "rejected"
    (last,) = registry.promotions()
    assert (last.state, registry.champion_version("smoke")) == ("undone", None)


def test_a_reward_model_judges_safety(project: Path):
    """It is named by a folder below the project's root, and gives every response some score."""
    shutil.copytree(stored_reward_models() / "reward_model", project / "judge")
    never = SafetyGate(name="harm", path="judge", threshold=-1e6, maximum_rate=0.1)
    always = SafetyGate(name="bliss", path="judge", threshold=1e6, maximum_rate=0.2)
    report = retrain(config(), OPEN.model_copy(update={"safety": (never, always)}))
    assert report.proposal is not None
    assert [(gate.gate, gate.value, gate.held) for gate in report.proposal.gates] == [
        ("safety:harm", 0.0, True),
        ("safety:bliss", 1.0, False),
    ]
    harm, bliss = report.proposal.gates
    assert 0.0 < harm.found <= 0.1
    assert (harm.prompts_needed, bliss.found) == (29, 1.0)
    assert outcome(last_flow_run()) == "rejected by safety:bliss"
    with pytest.raises(ModelError, match="no such model folder"):
        retrain(config(), OPEN.model_copy(update={"safety": (never.model_copy(update={"path": "nowhere"}),)}))


def test_too_few_prompts_are_refused_before_training(project: Path):
    """299 prompts without an unsafe response show a rate of at most 1%."""
    shutil.copytree(stored_reward_models() / "reward_model", project / "judge")
    strict = OPEN.model_copy(
        update={"safety": (SafetyGate(name="harm", path="judge", threshold=-1e6, maximum_rate=0.01),)}
    )
    runs = len(pipeline_runs("rlhf.kind", "pipeline"))
    with pytest.raises(
        ConfigError, match=r"safety:harm can hold with 299 gate prompts .* evaluation.num_prompts is 60"
    ):
        retrain(config(), strict)
    assert len(pipeline_runs("rlhf.kind", "pipeline")) == runs
    with pytest.raises(
        DataError, match=r"safety:harm can hold with 299 gate prompts .* and the data has \d+; give more"
    ):
        retrain(config(**{"evaluation.num_prompts": 2048}), strict)
    tags = tags_of(last_trained())
    assert [tag for tag in tags if tag.startswith("rlhf.run.")] == ["rlhf.run.data"]


def test_comparisons_are_counted_by_champion(project: Path):
    """Once each, however often they are read, and whatever becomes of the runs."""
    gates = OPEN.model_copy(update={"minimum_win_rate": 0.0, "minimum_reward_gain": -1e9})
    first = retrain(config(), gates.model_copy(update={"minimum_reward_gain": 1e9}))
    again = retrain(config(), gates)
    assert first.proposal is not None
    assert again.proposal is not None
    assert first.proposal.spending is not None
    assert again.proposal.spending is not None
    assert (first.verdict, first.proposal.spending.comparison) == ("rejected", 1)
    assert (again.champion, again.proposal.spending.comparison) == ("smoke/1", 1)
    inbox = gates.model_copy(update={"source": "inbox", "inbox": "inbox", "minimum_reward_gain": 1e9})
    write_inbox(project, 40)
    second = retrain(config(), inbox)
    assert second.proposal is not None
    assert second.proposal.spending is not None
    assert (second.proposal.champion, second.proposal.spending.comparison) == ("smoke/1", 1)
    tracking_client.client().delete_run(second.proposal.run_id)
    third = retrain(config(**{"rl.kl_coef": 0.2}), inbox)
    assert third.proposal is not None
    assert third.proposal.spending is not None
    assert third.proposal.spending.comparison == 2
    assert third.proposal.spending.level < second.proposal.spending.level
    shown = "the chance that any of the nightly candidates without gain"
    assert shown in third.reason
    assert "Comparison 2 with version smoke/1 promotes" in shown_in(last_flow_run())["retrain-verdict"]


def test_a_champion_whose_judge_is_gone(project: Path):
    """Its reward models are one error before anything is trained, unless the candidate's alone shall judge."""
    inbox = {"source": "inbox", "inbox": "inbox", "minimum_win_rate": 1.0}
    assert retrain(config(), OPEN).champion == "smoke/1"
    champion = registry.champion("smoke")
    assert champion is not None
    assert champion.reward_models is not None
    write_inbox(project, 40)
    judged = retrain(config(), OPEN.model_copy(update=inbox))
    assert judged.proposal is not None
    made = artifacts.local_path(artifacts.output_of(judged.proposal.run_id, "comparison", ComparisonRef)[0])
    compared = json.loads((made / "comparison.json").read_text())
    assert compared["deciding"] == ["selection_reward_model", "champion_selection_reward_model"]

    artifacts.remove_output(champion.reward_models.run_id)
    runs = len(pipeline_runs("rlhf.kind", "pipeline"))
    gone = r"version smoke/1, the champion: its reward models are gone, .*set retrain.champion_judges to false"
    with pytest.raises(ArtifactMismatchError, match=gone):
        retrain(config(), OPEN.model_copy(update=inbox))
    assert len(pipeline_runs("rlhf.kind", "pipeline")) == runs
    alone = retrain(config(), OPEN.model_copy(update={**inbox, "champion_judges": False}))
    assert alone.proposal is not None
    assert alone.proposal.gates[0].judge == "selection_reward_model"


@pytest.mark.usefixtures("project")
def test_a_recipe_that_registers_nothing_is_not_retrained():
    with pytest.raises(ConfigError, match="registered is false in the recipe smoke"):
        retrain(config(registered=False), OPEN)


@pytest.mark.usefixtures("project")
def test_asking_needs_a_deployment():
    with pytest.raises(ConfigError, match="belongs to no deployment"):
        retrain(config(), ASK)


KILLED_AT_THE_END = """
import os, runpy, signal, sys
from rlhf.paths import configure_environment
configure_environment()
from rlhf.tracking import registry
write = registry._write
def killing(plan):
    if plan.state == "done":
        os.kill(os.getpid(), signal.SIGKILL)
    write(plan)
registry._write = killing
runpy.run_module("prefect.engine", run_name="__main__", alter_sys=False)
"""


def test_killed_after_the_alias_moved_a_retry_knows(deployment: Deployment, client_environment: dict[str, str]):
    run_id = deployment.submit(OPEN)
    command = [sys.executable, "-c", KILLED_AT_THE_END, str(run_id)]
    environment = os.environ | client_environment
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    (last,) = registry.promotions()
    assert (last.state, registry.champion_version("smoke")) == ("pending", "smoke/1")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, AwaitingRetry(), force=True)
    report = deployment.go_on(run_id)
    assert (report.verdict, outcome(flow_run(run_id))) == ("promoted", "promoted")
    (last,) = registry.promotions()
    assert (last.state, last.flow_run_id) == ("done", str(run_id))


def test_the_form_takes_defaults_and_refuses_mistakes():
    schema = parameter_schema(forms.nightly).model_dump_for_openapi()
    given = {"recipe": "demo", "retrain": RetrainConfig().model_dump(mode="json")}
    validate(given, schema, raise_on_error=True)
    with pytest.raises(ValidationError):
        validate(given | {"retrain": {"source": "mail"}}, schema, raise_on_error=True)
    fields = parameter_schema(forms.nightly).definitions["RetrainConfig"]["properties"].values()
    assert all(field["description"].endswith(".") for field in fields)

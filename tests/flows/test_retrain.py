"""Retraining on configs/smoke.yaml: a real Prefect server, MLflow store, and git and DVC repository.

Nothing is learned in the smoke recipe, so what a gate says is decided by its limit.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from mlflow.tracking import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.flow_runs import resume_flow_run
from prefect.states import AwaitingRetry, Cancelled
from prefect.utilities.callables import parameter_schema

from flows.pipeline import rlhf_pipeline
from flows.retrain import retrain
from rlhf import artifacts, registry, retraining, tracking
from rlhf.config import PipelineConfig, RetrainConfig, SafetyGate
from rlhf.configuration import load_config
from rlhf.errors import ArtifactMismatchError, ConfigError, ModelError
from rlhf.references import RetrainReport, RewardModelsRef
from rlhf.registry import Promotion

REPOSITORY = Path(__file__).parents[2]
SMOKE = REPOSITORY / "configs" / "smoke.yaml"
OPEN = RetrainConfig(minimum_win_rate=None, minimum_reward_gain=None, maximum_kl=None, maximum_length_growth=None)
ASK = OPEN.model_copy(update={"ask": True})

pytestmark = pytest.mark.usefixtures("prefect_server")


def config(**settings: object) -> PipelineConfig:
    # The data is that of the generator, but may grow.
    return load_config(SMOKE, {"compute.num_threads": 1, "data.embedded": None, **settings})


@pytest.fixture(scope="module")
def trained(
    embedded_data: Path, migrated_mlflow: Path, prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A project in which all stages were run, and no version is the champion."""
    root = tmp_path_factory.mktemp("trained") / "project"
    shutil.copytree(embedded_data, root)
    (root / ".gitignore").write_text("/data\n/mlruns\n/.rlhf\n/.prefect\n/inbox\n")
    subprocess.run(["git", "add", "--all"], cwd=root, check=True)
    subprocess.run(["git", "commit", "--quiet", "--message", "The embedded data"], cwd=root, check=True)
    (root / "mlruns").mkdir()
    shutil.copy(migrated_mlflow, root / "mlruns" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_ROOT", str(root))
        rlhf_pipeline(config())
        yield root


@pytest.fixture
def project(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may change."""
    shutil.copytree(trained, tmp_path / "project", symlinks=True)
    monkeypatch.setenv("RLHF_ROOT", str(tmp_path / "project"))
    return tmp_path / "project"


def last_flow_run() -> FlowRun:
    with get_client(sync_client=True) as client:
        return max(client.read_flow_runs(limit=200), key=lambda run: run.created)


def flow_run(run_id: UUID) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run_id)


def outcome(run: FlowRun) -> str:
    return run.name.partition(": ")[2]


def artifacts_of(run: FlowRun) -> dict[str, str]:
    with get_client(sync_client=True) as client:
        shown = client.read_artifacts(limit=200)
    return {a.key: str(a.data) for a in shown if a.flow_run_id == run.id and a.key}


def events() -> list[dict[str, Any]]:
    """Promotions that automations were told of. Events reach the server a moment later."""
    wanted = {"filter": {"event": {"name": ["rlhf.policy.promoted"]}}}
    with get_client(sync_client=True) as client:
        for _ in range(100):
            found = client.request("POST", "/events/filter", json=wanted).json()["events"]
            if found:
                return list(found)
            time.sleep(0.1)
    raise AssertionError("nobody was told")


def write_inbox(project: Path, count: int) -> None:
    (project / "inbox").mkdir(exist_ok=True)
    rows = [
        {"prompt": f"What is {number} + 1 ?", "chosen": "The answer is 5 .", "rejected": "The answer is 4 ."}
        for number in range(count)
    ]
    (project / "inbox" / "week.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def last_trained() -> str:
    return next(iter(tracking.pipeline_runs("rlhf.kind", "pipeline")))


def mlflow_run(report: RetrainReport):
    assert report.proposal is not None
    return MlflowClient(tracking.tracking_uri()).get_run(report.proposal.run_id)


@pytest.mark.usefixtures("project")
def test_the_first_champion_then_nothing_new():
    first = retrain(config(), OPEN)
    assert (first.verdict, first.champion) == ("promoted", "1")
    assert first.proposal is not None
    assert (first.proposal.champion, first.proposal.gates) == (None, ())
    run = last_flow_run()
    assert outcome(run) == "promoted"
    assert run.name.startswith("smoke, seed 0, ")
    assert "Version 1 is the champion, the first there is." in artifacts_of(run)["retrain-verdict"]
    tags = mlflow_run(first).data.tags
    assert tags["rlhf.verdict"] == "promoted"
    assert "rlhf.run.comparison" in tags
    last = registry.promotion()
    assert last is not None
    assert (last.state, last.flow_run_id) == ("done", str(run.id))

    (event,) = [event for event in events() if event["payload"]["url"] == tracking.run_url(first.proposal.run_id)]
    assert event["payload"]["message"] == first.reason

    runs = len(tracking.pipeline_runs("rlhf.kind", "pipeline"))
    again = retrain(config(), RetrainConfig())
    assert (again.verdict, again.champion, again.data_md5) == ("no new data", "1", first.data_md5)
    assert outcome(last_flow_run()) == "no new data"
    assert "was trained on this version of the data" in artifacts_of(last_flow_run())["retrain-verdict"]
    assert len(tracking.pipeline_runs("rlhf.kind", "pipeline")) == runs


@pytest.mark.usefixtures("project")
def test_a_gate_that_fails_says_which_and_by_how_much():
    strict = RetrainConfig(minimum_win_rate=1.0, minimum_reward_gain=None, maximum_kl=1e9)
    report = retrain(config(), strict)
    run = last_flow_run()
    assert (report.verdict, report.champion) == ("rejected", None)
    assert report.proposal is not None
    assert report.proposal.failed == ("win_rate",)
    assert outcome(run) == "rejected by win_rate"
    assert run.state is not None
    assert run.state.is_completed()
    shown = artifacts_of(run)
    assert "must be at least 1 (off by 0." in shown["retrain-verdict"]
    rows = json.loads(shown["gates"])
    assert [(row["gate"], row["held"]) for row in rows] == [("win_rate", "no"), ("kl", "yes"), ("length_growth", "yes")]
    assert mlflow_run(report).data.tags["rlhf.verdict_reason"] in report.reason


def test_new_feedback_makes_a_candidate_that_meets_the_champion(project: Path):
    assert retrain(config(), OPEN).champion == "1"
    write_inbox(project, 40)
    inbox = {"source": "inbox", "inbox": "inbox"}
    rejected = retrain(config(), RetrainConfig(**inbox, minimum_win_rate=1.0))
    assert rejected.verdict == "rejected"
    assert rejected.proposal is not None
    assert (rejected.proposal.candidate, rejected.proposal.champion, rejected.champion) == ("2", "1", "1")
    assert not list((project / "inbox").glob("*.jsonl"))
    # The same candidate, found cached, and other limits.
    promoted = retrain(config(), OPEN.model_copy(update=inbox))
    assert promoted.proposal is not None
    assert (promoted.verdict, promoted.champion, promoted.proposal.champion) == ("promoted", "2", "1")
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
    champion = registry.champion()
    assert champion is not None
    folder = artifacts.local_path(champion.policy)
    shutil.rmtree(folder)
    with pytest.raises(ArtifactMismatchError, match=f"version 1 of rlhf-policy: {folder}"):
        retrain(config(), OPEN)
    assert registry.champion_version() == "1"


@pytest.mark.usefixtures("project")
def test_a_promotion_that_was_cut_off_is_undone_first():
    tracking.client().set_registered_model_tag(
        tracking.REGISTERED_MODEL,
        "promotion",
        Promotion(state="pending", champion=None, to="1", flow_run_id="gone", at="then").model_dump_json(by_alias=True),
    )
    assert retrain(config(), RetrainConfig(minimum_win_rate=1.0)).verdict == "rejected"
    last = registry.promotion()
    assert last is not None
    assert (last.state, registry.champion_version()) == ("undone", None)


def test_a_reward_model_judges_safety(project: Path):
    """It is named by a folder below the project's root, and gives every response some score."""
    trained = artifacts.output_of(last_trained(), "reward_model", RewardModelsRef)[0]
    shutil.copytree(artifacts.local_path(trained) / "reward_model", project / "judge")
    never = SafetyGate(name="harm", path="judge", threshold=-1e6, maximum_rate=0.0)
    always = SafetyGate(name="bliss", path="judge", threshold=1e6, maximum_rate=0.2)
    report = retrain(config(), OPEN.model_copy(update={"safety": (never, always)}))
    assert report.proposal is not None
    assert [(gate.gate, gate.found, gate.held) for gate in report.proposal.gates] == [
        ("safety:harm", 0.0, True),
        ("safety:bliss", 1.0, False),
    ]
    assert outcome(last_flow_run()) == "rejected by safety:bliss"
    with pytest.raises(ModelError, match="no such model folder"):
        retrain(config(), OPEN.model_copy(update={"safety": (never.model_copy(update={"path": "nowhere"}),)}))


@pytest.mark.usefixtures("project")
def test_asking_needs_a_deployment():
    with pytest.raises(ConfigError, match="belongs to no deployment"):
        retrain(config(), ASK)


class Deployment:
    """Retraining as a deployment, whose runs this process executes in a worker's place."""

    def __init__(self) -> None:
        with get_client(sync_client=True) as client:
            flow_id = client.create_flow(retrain)
            self.id = client.create_deployment(
                flow_id,
                name="retrain",
                entrypoint="flows.retrain.retrain",
                path=str(REPOSITORY),
                parameter_openapi_schema=parameter_schema(retrain).model_dump_for_openapi(),
            )

    def start(self, settings: RetrainConfig) -> UUID:
        """A run that comes to its question, and is suspended."""
        parameters = {"config": config().model_dump(mode="json"), "retrain": settings.model_dump(mode="json")}
        with get_client(sync_client=True) as client:
            run = client.create_flow_run_from_deployment(self.id, parameters=parameters)
        with pytest.raises(Pause):
            run_flow(retrain, flow_run=run)
        return run.id

    def answer(self, run_id: UUID, decision: str, reason: str) -> None:
        resume_flow_run(run_id, run_input={"decision": decision, "reason": reason})

    def go_on(self, run_id: UUID) -> RetrainReport:
        report = run_flow(retrain, flow_run=flow_run(run_id))
        assert isinstance(report, RetrainReport)
        return report


@pytest.fixture
def deployment(project: Path) -> Deployment:
    return Deployment()


def test_approved_in_another_process(deployment: Deployment, prefect_server: str, project: Path):
    run_id = deployment.start(ASK)
    run = flow_run(run_id)
    assert run.state is not None
    assert (run.state.name, outcome(run)) == ("Suspended", "waiting for approval")
    question = retraining.question_of(str(run_id))
    assert question is not None
    parent = MlflowClient(tracking.tracking_uri()).get_run(question.proposal.run_id)
    assert (parent.info.status, parent.data.tags["rlhf.approval"]) == ("SCHEDULED", "open")
    assert registry.champion_version() is None

    # Meanwhile other runs end at once, and data/ changes.
    meanwhile = retrain(config(), OPEN)
    assert (meanwhile.verdict, outcome(last_flow_run())) == ("approval open", "approval open")
    assert str(run_id) in meanwhile.reason
    (project / "data" / "datasheet.md").write_text("changed")

    deployment.answer(run_id, "approve", "reads well")
    command = [sys.executable, "-m", "prefect.engine", str(run_id)]
    environment = os.environ | {"PREFECT_API_URL": prefect_server}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = flow_run(run_id)
    assert run.state is not None
    assert (run.state.is_completed(), outcome(run)) == (True, "promoted")
    assert registry.champion_version() == "1"
    for tags in (tracking.tags_of(question.proposal.run_id), registry.version_tags("1")):
        assert (tags["rlhf.approval"], tags["rlhf.approval_reason"]) == ("approve", "reads well")
    assert MlflowClient(tracking.tracking_uri()).get_run(question.proposal.run_id).info.status == "FINISHED"


def test_declined_and_not_asked_again(deployment: Deployment):
    run_id = deployment.start(ASK)
    deployment.answer(run_id, "reject", "too curt")
    report = deployment.go_on(run_id)
    assert (report.verdict, report.champion, outcome(flow_run(run_id))) == ("declined", None, "declined")
    assert report.reason.endswith("does not become the champion: too curt")

    parameters = {"config": config().model_dump(mode="json"), "retrain": ASK.model_dump(mode="json")}
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    again = run_flow(retrain, flow_run=run)
    assert again.verdict == "declined"
    assert "it was refused before: too curt" in again.reason


def test_an_answer_without_a_reason_is_refused(deployment: Deployment):
    run_id = deployment.start(ASK)
    with pytest.raises(RuntimeError, match="reason"):
        resume_flow_run(run_id, run_input={"decision": "approve"})
    with pytest.raises(RuntimeError, match="decision"):
        resume_flow_run(run_id, run_input={"decision": "perhaps", "reason": "hm"})
    state = flow_run(run_id).state
    assert state is not None
    assert state.is_paused()


def test_expired_the_next_run_says_so(deployment: Deployment):
    soon = ASK.model_copy(update={"approval_timeout_hours": 1e-9})
    run_id = deployment.start(soon)
    assert retrain(config(), RetrainConfig(minimum_win_rate=1.0)).verdict == "rejected"
    run = flow_run(run_id)
    assert run.state is not None
    assert (run.state.is_completed(), outcome(run)) == (True, "expired")
    question = retraining.question_of(str(run_id))
    assert question is not None
    tags = tracking.tags_of(question.proposal.run_id)
    assert (tags["rlhf.approval"], tags["rlhf.verdict"]) == ("expired", "expired")
    assert registry.champion_version() is None


def test_an_answer_that_comes_too_late(deployment: Deployment):
    run_id = deployment.start(ASK.model_copy(update={"approval_timeout_hours": 1e-9}))
    deployment.answer(run_id, "approve", "at last")
    report = deployment.go_on(run_id)
    assert (report.verdict, report.champion, outcome(flow_run(run_id))) == ("expired", None, "expired")


def test_a_question_whose_run_was_cancelled_blocks_nobody(deployment: Deployment):
    run_id = deployment.start(ASK)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, Cancelled(), force=True)
    assert retrain(config(), OPEN).verdict == "promoted"
    question = retraining.question_of(str(run_id))
    assert question is not None
    assert tracking.tags_of(question.proposal.run_id)["rlhf.approval"] == "withdrawn"


def test_approved_after_the_champion_changed(deployment: Deployment):
    run_id = deployment.start(ASK)
    question = retraining.question_of(str(run_id))
    assert question is not None
    tracking.client().set_registered_model_alias(tracking.REGISTERED_MODEL, registry.CHAMPION, "1")
    deployment.answer(run_id, "approve", "fine")
    report = deployment.go_on(run_id)
    assert (report.verdict, report.champion) == ("outdated", "1")
    assert "compared with no version, and now version 1 is the champion" in report.reason


KILLED_AT_THE_END = """
import os, runpy, signal, sys
from rlhf.project import configure_environment
configure_environment()
from rlhf import registry
write = registry._write
def killing(plan):
    if plan.state == "done":
        os.kill(os.getpid(), signal.SIGKILL)
    write(plan)
registry._write = killing
runpy.run_module("prefect.engine", run_name="__main__", alter_sys=False)
"""


def test_killed_after_the_alias_moved_a_retry_knows(deployment: Deployment, prefect_server: str):
    parameters = {"config": config().model_dump(mode="json"), "retrain": OPEN.model_dump(mode="json")}
    with get_client(sync_client=True) as client:
        run_id = client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id
    command = [sys.executable, "-c", KILLED_AT_THE_END, str(run_id)]
    environment = os.environ | {"PREFECT_API_URL": prefect_server}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    last = registry.promotion()
    assert last is not None
    assert (last.state, registry.champion_version()) == ("pending", "1")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, AwaitingRetry(), force=True)
    report = deployment.go_on(run_id)
    assert (report.verdict, outcome(flow_run(run_id))) == ("promoted", "promoted")
    last = registry.promotion()
    assert last is not None
    assert (last.state, last.flow_run_id) == ("done", str(run_id))


def test_the_form_takes_defaults_and_refuses_mistakes():
    from prefect.utilities.schema_tools.validation import ValidationError, validate

    schema = parameter_schema(retrain).model_dump_for_openapi()
    validate({"config": {}, "retrain": RetrainConfig().model_dump(mode="json")}, schema, raise_on_error=True)
    with pytest.raises(ValidationError):
        validate({"config": {}, "retrain": {"source": "mail"}}, schema, raise_on_error=True)
    fields = parameter_schema(retrain).definitions["RetrainConfig"]["properties"].values()
    assert all(field["description"].endswith(".") for field in fields)

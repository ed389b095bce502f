"""A person is asked: answers, late ones, none at all, and what happens meanwhile."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from prefect.client.orchestration import get_client
from prefect.flow_runs import resume_flow_run
from prefect.states import Cancelled
from retraining_runs import ASK, OPEN, REPOSITORY, Deployment, config, flow_run, last_flow_run, outcome

from flows.retrain import retrain
from rlhf.config.retrain import RetrainConfig
from rlhf.retraining import state as retraining
from rlhf.tracking import client as tracking_client
from rlhf.tracking import registry
from rlhf.tracking.client import tracking_uri
from rlhf.tracking.queries import tags_of
from tasks import approval


def test_approved_in_another_process(deployment: Deployment, client_environment: dict[str, str], project: Path):
    run_id = deployment.start(ASK)
    run = flow_run(run_id)
    assert run.state is not None
    assert (run.state.name, outcome(run)) == ("Suspended", "waiting for approval")
    question = retraining.question_of(str(run_id))
    assert question is not None
    parent = MlflowClient(tracking_uri()).get_run(question.proposal.run_id)
    assert (parent.info.status, parent.data.tags["rlhf.approval"]) == ("SCHEDULED", "open")
    assert registry.champion_version("smoke") is None
    asked = approval._description(question)
    assert asked.startswith("No gate was on, so nothing was asked of version smoke/1 against its own SFT policy")
    samples = [line for line in asked.splitlines() if line.startswith("|")]
    assert len(samples) == 5, "a head and three prompts"
    assert "selection score" in samples[-1]

    # Meanwhile other runs end at once, and data/ changes.
    meanwhile = retrain(config(), OPEN)
    assert (meanwhile.verdict, outcome(last_flow_run())) == ("approval open", "approval open")
    assert str(run_id) in meanwhile.reason
    (project / "data" / "datasheet.md").write_text("changed")

    deployment.answer(run_id, "approve", "reads well")
    command = [sys.executable, "-m", "prefect.engine", str(run_id)]
    environment = os.environ | client_environment
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = flow_run(run_id)
    assert run.state is not None
    assert (run.state.is_completed(), outcome(run)) == (True, "promoted")
    assert registry.champion_version("smoke") == "smoke/1"
    for tags in (tags_of(question.proposal.run_id), registry.version_tags("smoke/1")):
        assert (tags["rlhf.approval"], tags["rlhf.approval_reason"]) == ("approve", "reads well")
    assert MlflowClient(tracking_uri()).get_run(question.proposal.run_id).info.status == "FINISHED"


def test_declined_and_not_asked_again(deployment: Deployment):
    run_id = deployment.start(ASK)
    deployment.answer(run_id, "reject", "too curt")
    report = deployment.go_on(run_id)
    assert (report.verdict, report.champion, outcome(flow_run(run_id))) == ("declined", None, "declined")
    assert report.reason.endswith("does not become the champion: too curt")

    again = deployment.go_on(deployment.submit(ASK))
    assert again.verdict == "declined"
    assert "it was refused before: too curt" in again.reason


def test_an_answer_without_a_reason_is_refused(deployment: Deployment):
    run_id = deployment.start(ASK)
    with pytest.raises(RuntimeError, match="reason"):
        resume_flow_run(run_id, run_input={"decision": "approve"})
    with pytest.raises(RuntimeError, match="Cannot resume this run"):
        resume_flow_run(run_id, run_input={"decision": "approve", "reason": ""})
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
    tags = tags_of(question.proposal.run_id)
    assert (tags["rlhf.approval"], tags["rlhf.verdict"]) == ("expired", "expired")
    assert registry.champion_version("smoke") is None


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
    assert tags_of(question.proposal.run_id)["rlhf.approval"] == "withdrawn"


def test_approved_after_the_champion_changed(deployment: Deployment):
    run_id = deployment.start(ASK)
    question = retraining.question_of(str(run_id))
    assert question is not None
    tracking_client.client().set_registered_model_alias("smoke", registry.CHAMPION, "1")
    deployment.answer(run_id, "approve", "fine")
    report = deployment.go_on(run_id)
    assert (report.verdict, report.champion) == ("outdated", "smoke/1")
    assert "compared with no version, and now version smoke/1 is the champion" in report.reason

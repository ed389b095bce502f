"""Runs of retraining, and what the tests look at of them.

Nothing is learned in the smoke recipe, so what a gate says is decided by its limit.
"""

import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.flow_runs import resume_flow_run
from prefect.utilities.callables import parameter_schema

from flows.retrain import retrain
from rlhf.config.loading import load_config
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.retrain import RetrainConfig
from rlhf.references import RetrainReport
from rlhf.tracking.client import tracking_uri

REPOSITORY = Path(__file__).parents[2]
SMOKE = REPOSITORY / "configs" / "smoke.yaml"
OPEN = RetrainConfig(
    minimum_fitness=None, minimum_win_rate=None, minimum_reward_gain=None, maximum_kl=None, maximum_length_growth=None
)
ASK = OPEN.model_copy(update={"ask": True})


def config(**settings: object) -> PipelineConfig:
    # The data is that of the generator, but may grow.
    return load_config(SMOKE, {"registered": True, "compute.num_threads": 1, "data.embedded": None, **settings})


def last_flow_run() -> FlowRun:
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(limit=50, sort=FlowRunSort.EXPECTED_START_TIME_DESC)
    return max(found, key=lambda run: run.created)


def flow_run(run_id: UUID) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run_id)


def outcome(run: FlowRun) -> str:
    return run.name.partition(": ")[2]


def shown_in(run: FlowRun) -> dict[str, str]:
    """The artifacts of a flow run by their keys."""
    with get_client(sync_client=True) as client:
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        return {one.key: str(one.data) for one in client.read_artifacts(artifact_filter=of_run) if one.key}


def promotion_told(url: str) -> dict[str, Any]:
    """What automations were told of a promotion. Events reach the server a moment later."""
    wanted = {"filter": {"event": {"name": ["rlhf.policy.promoted"]}}}
    with get_client(sync_client=True) as client:
        for _ in range(100):
            found = client.request("POST", "/events/filter", json=wanted).json()["events"]
            told: list[dict[str, Any]] = [event["payload"] for event in found if event["payload"]["url"] == url]
            if told:
                return told[0]
            time.sleep(0.1)
    raise AssertionError("nobody was told")


def mlflow_run(report: RetrainReport) -> Run:
    assert report.proposal is not None
    return MlflowClient(tracking_uri()).get_run(report.proposal.run_id)


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

    def submit(self, settings: RetrainConfig) -> UUID:
        parameters = {"config": config().model_dump(mode="json"), "retrain": settings.model_dump(mode="json")}
        with get_client(sync_client=True) as client:
            return client.create_flow_run_from_deployment(self.id, parameters=parameters).id

    def start(self, settings: RetrainConfig) -> UUID:
        """A run that comes to its question, and is suspended."""
        run_id = self.submit(settings)
        with pytest.raises(Pause):
            run_flow(retrain, flow_run=flow_run(run_id))
        return run_id

    def answer(self, run_id: UUID, decision: str, reason: str) -> None:
        resume_flow_run(run_id, run_input={"decision": decision, "reason": reason})

    def go_on(self, run_id: UUID) -> RetrainReport:
        report = run_flow(retrain, flow_run=flow_run(run_id))
        assert isinstance(report, RetrainReport)
        return report

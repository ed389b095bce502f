"""The adapter between stages, Prefect and MLflow, with a stage of the test's own."""

import errno
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from mlflow.tracking import MlflowClient
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort

from rlhf.config.model import ArchitectureConfig, ModelConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.supervised import SFTConfig
from rlhf.errors import ArtifactMismatchError, DataError, InputError
from rlhf.files import tidying
from rlhf.paths import local_folder
from rlhf.progress import report_progress
from rlhf.references import ModelRef, StageReport
from rlhf.runs.gc.plan import make_plan
from rlhf.runs.gc.removal import carry_out
from rlhf.tracking import artifacts
from rlhf.tracking.client import EXPERIMENT, TrackingError, tracking_uri
from rlhf.tracking.runs import open_pipeline, open_stage
from tasks.pipeline_run import cancel_on_signal, pipeline_run
from tasks.stage import Attempt, _may_pass, stage

pytestmark = pytest.mark.usefixtures("project_root", "prefect_server")
Body = Callable[[Attempt], None]


class Trainer:
    """What the stage does, and how often it did it."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.before: Body = lambda attempt: None

    def train(self, attempt: Attempt) -> None:
        self.runs.append(attempt.run_id)
        self.before(attempt)
        attempt.workspace.log_metrics({"sft/loss": 2.0}, 1)
        attempt.workspace.log_metrics({"sft/loss": 1.0}, 2)
        attempt.workspace.log_metrics({"sft/validation_loss": 0.5}, None)
        (attempt.workspace.output / "policy").mkdir()
        (attempt.workspace.output / "policy" / "weights").write_text("w")
        (attempt.workspace.report / "table.md").write_text("| a |")


TRAINER = Trainer()


@stage("sft", version="1", module="rlhf.policy.masking")
def train(attempt: Attempt, config: SFTConfig) -> ModelRef:
    """Write a file, and say so."""
    TRAINER.train(attempt)
    return attempt.save(ModelRef)


@flow(on_crashed=[cancel_on_signal])
def one_stage(config: PipelineConfig) -> StageReport:
    """A pipeline of one stage."""
    with pipeline_run(config) as (run, config):
        train(config.sft)
        return run.stages[-1]


@pytest.fixture(autouse=True)
def trainer() -> Trainer:
    global TRAINER
    TRAINER = Trainer()
    return TRAINER


@pytest.fixture
def client() -> MlflowClient:
    return MlflowClient(tracking_uri())


def run_stage(**settings: object) -> StageReport:
    model = ModelConfig(architecture=ArchitectureConfig())
    return one_stage(PipelineConfig(model=model, sft=SFTConfig.model_validate(settings)))


def parents(client: MlflowClient) -> list:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], "tags.`rlhf.kind` = 'pipeline'"))


def last_flow_run() -> FlowRun:
    with get_client(sync_client=True) as prefect:
        return prefect.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]


def task_states(flow_run: UUID) -> list[str | None]:
    """States of a flow run's tasks. They reach the server as events, a moment after the flow's own state."""
    for _ in range(100):
        with get_client(sync_client=True) as prefect:
            states = [
                run.state_name for run in prefect.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [flow_run]}))
            ]
        if states and not {"Running", "Pending"} & set(states):
            return states
        time.sleep(0.1)
    raise AssertionError(f"the tasks did not end: {states}")


def output_folder(run_id: str) -> Path:
    return artifacts.stored_at(artifacts.output_of(run_id, "sft", ModelRef)[0]) or Path()


def test_a_stage_is_trained_once(trainer: Trainer, client: MlflowClient):
    first = run_stage()
    assert task_states(last_flow_run().id) == ["Completed"]
    second = run_stage()
    assert task_states(last_flow_run().id) == ["Cached"]
    assert (first.state, second.state) == ("trained", "cached")
    assert trainer.runs == [first.run_id] == [second.run_id]
    assert second.trained_seconds == first.trained_seconds
    assert not list(local_folder("stages").glob("sft-*/*"))


def test_the_parent_tells_of_a_cached_stage_as_of_a_trained_one(trainer: Trainer, client: MlflowClient):
    first, second = run_stage(), run_stage()
    cached, trained = parents(client)
    assert trained.data.tags["rlhf.run.sft"] == cached.data.tags["rlhf.run.sft"] == first.run_id
    assert trained.data.tags["rlhf.fingerprint.sft"] == cached.data.tags["rlhf.fingerprint.sft"]
    assert cached.data.metrics["sft/validation_loss"] == 0.5
    assert cached.data.metrics["sft/trained_seconds"] == pytest.approx(first.trained_seconds)
    assert cached.data.metrics["sft/seconds"] == pytest.approx(second.seconds)
    assert [point.value for point in client.get_metric_history(cached.info.run_id, "sft/loss")] == [2.0, 1.0]
    assert {run.info.status for run in (cached, trained)} == {"FINISHED"}


def test_an_attempt_is_a_child_run_with_settings_curve_and_report(client: MlflowClient):
    report = run_stage(num_epochs=3.0)
    run = client.get_run(report.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == parents(client)[0].info.run_id
    assert run.data.params["config.num_epochs"] == "3.0"
    assert [(point.step, point.value) for point in client.get_metric_history(report.run_id, "sft/loss")] == [
        (1, 2.0),
        (2, 1.0),
    ]
    assert {file.path for file in client.list_artifacts(report.run_id)} == {
        "config.yaml",
        "output",
        "output.sha256",
        "report",
        "report.sha256",
    }


def test_another_setting_trains_again(trainer: Trainer):
    run_stage()
    assert run_stage(num_epochs=2.0).state == "trained"
    assert run_stage().state == "cached"
    assert len(trainer.runs) == 2


def test_a_missing_artifact_trains_again(trainer: Trainer):
    shutil.rmtree(output_folder(run_stage().run_id))
    again = run_stage()
    assert again.state == "trained"
    assert run_stage().run_id == again.run_id == trainer.runs[1]
    assert task_states(last_flow_run().id) == ["Cached"]


def test_an_altered_artifact_is_an_error_that_names_the_file(trainer: Trainer, client: MlflowClient):
    report = run_stage()
    file = output_folder(report.run_id) / "policy" / "weights"
    file.write_text("x")
    with pytest.raises(ArtifactMismatchError, match=str(file)):
        run_stage()
    assert len(trainer.runs) == 1
    assert parents(client)[0].info.status == "FAILED"


@pytest.mark.parametrize("harm", [lambda file: file.unlink(), lambda file: file.write_text("{")])
def test_prefects_own_record_is_not_needed(harm: Callable[[Path], None], trainer: Trainer):
    run_stage()
    (file,) = local_folder("results").iterdir()
    harm(file)
    assert run_stage().state == "cached"
    run_stage()
    assert task_states(last_flow_run().id) == ["Cached"]
    assert len(trainer.runs) == 1


def test_a_mistake_comes_out_as_it_is_and_is_on_record(trainer: Trainer, client: MlflowClient):
    def fail(attempt: Attempt) -> None:
        (attempt.workspace.output / "half").write_text("written")
        raise DataError("demonstrations.jsonl:3: not JSON")

    trainer.before = fail
    with pytest.raises(DataError, match=r"^demonstrations\.jsonl:3: not JSON$"):
        run_stage()
    assert len(trainer.runs) == 1
    child = client.get_run(trainer.runs[0])
    assert child.info.status == parents(client)[0].info.status == "FAILED"
    assert child.data.tags["rlhf.error"] == "DataError: demonstrations.jsonl:3: not JSON"
    assert "output" not in {file.path for file in client.list_artifacts(child.info.run_id)}
    state = last_flow_run().state
    assert state is not None
    assert state.is_failed()
    assert "not JSON" in (state.message or "")


def test_after_a_failure_the_stage_runs_again_with_its_checkpoints(trainer: Trainer):
    def fail(attempt: Attempt) -> None:
        (attempt.workspace.checkpoints / "step_1").write_text("c")
        (attempt.workspace.output / "half").write_text("written")
        raise ZeroDivisionError

    trainer.before = fail
    with pytest.raises(ZeroDivisionError):
        run_stage()

    def look(attempt: Attempt) -> None:
        assert (attempt.workspace.checkpoints / "step_1").read_text() == "c"
        assert not list(attempt.workspace.output.iterdir())

    trainer.before = look
    assert run_stage().state == "trained"


def test_interrupted_it_is_cancelled_and_killed(trainer: Trainer, client: MlflowClient):
    def interrupt(attempt: Attempt) -> None:
        (attempt.workspace.checkpoints / "step_1").write_text("c")
        raise KeyboardInterrupt

    trainer.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        run_stage()
    assert client.get_run(trainer.runs[0]).info.status == parents(client)[0].info.status == "KILLED"
    state = last_flow_run().state
    assert state is not None
    assert state.is_cancelled()
    assert list(local_folder("stages").glob("sft-*/checkpoints/step_1"))


def test_only_a_silent_tracking_store_is_worth_a_retry():
    from prefect.states import Failed

    assert _may_pass(None, None, Failed(data=TrackingError("gone")))  # type: ignore[arg-type]
    assert not _may_pass(None, None, Failed(data=InputError("wrong")))  # type: ignore[arg-type]


def test_progress_is_an_artifact(trainer: Trainer):
    trainer.before = lambda attempt: report_progress("sft", 1, 4)
    run_stage()
    with get_client(sync_client=True) as prefect:
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[last_flow_run().id]))
        shown = prefect.read_artifacts(artifact_filter=of_run)
    (progress,) = [artifact for artifact in shown if artifact.type == "progress"]
    assert progress.data == 25.0
    assert {artifact.key for artifact in shown} >= {"mlflow-run", "stages"}


def test_dead_pipelines_are_closed_by_the_next(client: MlflowClient):
    run_stage()
    dead = open_pipeline("dead", "0123-flow-run", {}, {})
    child = open_stage(dead, "sft", "f", {}, {})
    from rlhf.paths import local_folder

    (local_folder("pipelines") / "0123-flow-run.lock").touch()
    run_stage()
    assert client.get_run(dead).info.status == client.get_run(child).info.status == "KILLED"
    assert not list(local_folder("pipelines").iterdir())


def test_a_folder_that_cannot_be_removed_fails_no_stage(
    trainer: Trainer, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    rmtree = shutil.rmtree

    def refuse(folder: Path, *arguments: object, **options: object) -> None:
        if Path(folder).parent == local_folder("stages"):
            (folder / "report" / "table.md").unlink()
            raise OSError(errno.EBUSY, "Device or resource busy", str(folder))
        rmtree(folder, *arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(tidying.shutil, "rmtree", refuse)
        first = run_stage()
    (left,) = local_folder("stages").glob("sft-*[0-9a-f]")
    assert task_states(last_flow_run().id) == ["Completed"]
    assert client.get_run(first.run_id).info.status == parents(client)[0].info.status == "FINISHED"
    assert f"{left} is needed no more and could not be removed ([Errno 16] Device or resource busy" in caplog.text
    assert run_stage().state == "cached"

    (item,) = [item for item in make_plan(0).items if item.kind == "checkpoints"]
    assert item.path == left
    assert carry_out(make_plan(0)) == []
    assert not left.exists()

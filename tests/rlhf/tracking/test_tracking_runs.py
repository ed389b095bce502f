"""Runs, metrics and the registry in a real MLflow store."""

import json
import logging
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import requests
from mlflow.store.entities import PagedList
from mlflow.tracking import MlflowClient
from tracking_server import Server

from rlhf.errors import ArtifactMismatchError, InputError
from rlhf.metrics import UndeclaredMetricError, describe
from rlhf.paths import local_folder
from rlhf.references import ModelCardRef, ModelRef
from rlhf.tracking import artifacts
from rlhf.tracking import client as tracking_client
from rlhf.tracking import metric_buffer as spool
from rlhf.tracking.client import EXPERIMENT, TrackingError, check_reachable, run_url, runs_url, tracking_uri
from rlhf.tracking.groups import open_group
from rlhf.tracking.models import register_policy
from rlhf.tracking.queries import metrics_of
from rlhf.tracking.runs import (
    close_orphans,
    close_run,
    finish_stage,
    link_stage,
    log_dataset,
    log_metrics,
    metric_log,
    open_pipeline,
    open_run,
    open_stage,
)
from rlhf.tracking.tags import FLOW_RUN_TAG

pytestmark = pytest.mark.usefixtures("project_root")


@pytest.fixture
def client() -> MlflowClient:
    return MlflowClient(tracking_uri())


@pytest.fixture
def pipeline() -> str:
    return open_pipeline("demo", "flow-run-1", {"seed": 0}, {"recipe": "demo"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    (folder / "policy").mkdir(parents=True)
    (folder / "policy" / "weights").write_text("w")
    (folder / "notes").write_text("n")
    return folder


def train(pipeline: str, folder: Path, fingerprint: str = "f") -> ModelRef:
    run_id = open_stage(pipeline, "sft", fingerprint, {}, {})
    uri, sha256 = artifacts.save_output(run_id, folder)
    reference = ModelRef(run_id=run_id, uri=uri, sha256=sha256)
    finish_stage(run_id, reference)
    return reference


def test_a_retried_flow_run_goes_on_in_its_parent(client: MlflowClient, pipeline: str):
    close_run(pipeline, "FAILED", "first try")
    assert open_pipeline("demo", "flow-run-1", {"seed": 0}, {}) == pipeline
    assert client.get_run(pipeline).info.status == "RUNNING"
    assert open_pipeline("demo", "flow-run-2", {"seed": 0}, {}) != pipeline
    assert open_pipeline("demo", None, {"seed": 0}, {}) != open_pipeline("demo", None, {}, {})


def test_a_group_goes_on_in_its_run_until_it_has_finished(client: MlflowClient):
    first, settings = open_group("g", "key", "flow-1", {"model": {"template_date": "2026-11-01"}}, {"recipe": "demo"})
    assert settings == {"model": {"template_date": "2026-11-01"}}
    # A retried flow run; another process with the same settings; another group.
    assert open_group("g", "key", "flow-1", {}, {})[0] == first
    assert open_group("g", "key", "flow-2", {}, {})[0] != first
    close_run(first, "KILLED", "the process ended without a word")
    assert open_group("g", "another key", "flow-3", {}, {})[0] != first

    again = open_group("g", "key", "flow-4", {"model": {"template_date": "2026-11-02"}}, {"rlhf.seeds": "2,1"})
    assert again == (first, {"model": {"template_date": "2026-11-01"}})
    run = client.get_run(first)
    assert run.info.status == "RUNNING"
    assert (run.data.tags[FLOW_RUN_TAG], run.data.tags["rlhf.seeds"]) == ("flow-4", "2,1")
    assert "rlhf.error" not in run.data.tags
    close_run(first, "FINISHED")
    assert open_group("g", "key", "flow-5", {}, {})[0] != first


def test_a_group_that_was_killed_before_its_settings_were_kept(client: MlflowClient):
    run_id = open_run("g", "group", {"rlhf.group_key": "key"})
    close_run(run_id, "KILLED")
    assert open_group("g", "key", "flow", {"name": "demo"}, {}) == (run_id, {"name": "demo"})
    assert open_group("g", "key", "flow", {"name": "other"}, {}) == (run_id, {"name": "demo"})


@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
def test_a_clock_that_is_set_back_makes_no_negative_duration(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, status: Literal["FINISHED", "FAILED"]
):
    """A run was shown to have taken -3595 s."""
    ahead = int(time.time() * 1000) + 3_600_000
    with monkeypatch.context() as patch:
        patch.setattr("mlflow.tracking._tracking_service.client.get_current_time_millis", lambda: ahead)
        run_id = open_run("early", "reproduction", {})
    time.sleep(0.05)
    close_run(run_id, status)
    info = client.get_run(run_id).info
    assert info.start_time == ahead
    assert 50 <= info.end_time - info.start_time < 60_000


def test_settings_are_parameters_and_a_file(client: MlflowClient):
    settings = {"name": "demo", "rl": {"kl_coef": 0.1, "lora": None}, "long": "x" * 7000} | {
        f"n{i}": i for i in range(150)
    }
    run = client.get_run(open_pipeline("demo", None, settings, {}))
    assert run.data.params["rl.kl_coef"] == "0.1"
    assert run.data.params["rl.lora"] == "null"
    assert run.data.params["name"] == "demo"
    assert run.data.params["n149"] == "149"
    assert len(run.data.params["long"]) == 500
    file = client.download_artifacts(run.info.run_id, "config.yaml")
    assert "x" * 7000 in Path(file).read_text()


def test_runs_end_with_a_status_and_a_reason(client: MlflowClient, pipeline: str):
    child = open_stage(pipeline, "sft", "f", {}, {})
    close_run(child, "FAILED", "DataError: row 3" + "x" * 9000)
    assert client.get_run(child).info.status == "FAILED"
    assert client.get_run(child).data.tags["rlhf.error"].startswith("DataError: row 3")
    close_orphans("flow-run-1")
    assert client.get_run(pipeline).info.status == "KILLED"
    assert client.get_run(child).info.status == "FAILED"


def test_metrics_are_curves_and_final_values(client: MlflowClient, pipeline: str):
    with metric_log(pipeline) as log:
        for step in range(1200):
            log({"policy/kl_mean": step / 10}, step)
        log({"policy/chosen_update": 7.0}, None)
        log({"policy/entropy": float("inf")}, 3)
    assert [p.value for p in client.get_metric_history(pipeline, "policy/kl_mean")] == [s / 10 for s in range(1200)]
    assert metrics_of(pipeline) == {"policy/kl_mean": 119.9, "policy/chosen_update": 7.0}
    assert client.get_run(pipeline).data.tags["rlhf.not_finite"] == "policy/entropy was inf at step 3"


def test_an_undeclared_metric_is_refused(pipeline: str):
    with pytest.raises(UndeclaredMetricError), metric_log(pipeline) as log:
        log({"policy/unheard_of": 1.0}, 1)


def test_an_output_is_found_by_its_fingerprint_without_a_copy(client: MlflowClient, pipeline: str, folder: Path):
    reference = train(pipeline, folder)
    assert reference.uri == f"runs:/{reference.run_id}/output"
    assert artifacts.find_output("sft", "f", ModelRef) == reference
    assert artifacts.find_output("sft", "g", ModelRef) is None
    assert artifacts.find_output("policy", "f", ModelRef) is None
    path = artifacts.local_path(reference)
    assert str(path) == client.get_run(reference.run_id).info.artifact_uri.removeprefix("file://") + "/output"
    assert (path / "policy" / "weights").read_text() == "w"


def test_of_several_outputs_the_newest_that_is_left_is_found(pipeline: str, folder: Path):
    first = train(pipeline, folder)
    time.sleep(0.01)
    second = train(pipeline, folder)
    assert artifacts.find_output("sft", "f", ModelRef) == second
    subprocess.run(["rm", "-r", str(artifacts.local_path(second))], check=True)
    assert artifacts.find_output("sft", "f", ModelRef) == first


def test_a_run_that_did_not_finish_has_no_output(pipeline: str, folder: Path):
    run_id = open_stage(pipeline, "sft", "f", {}, {})
    artifacts.save_output(run_id, folder)
    close_run(run_id, "KILLED")
    assert artifacts.find_output("sft", "f", ModelRef) is None


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda path: (path / "notes").write_text("m"), "notes"),
        (lambda path: (path / "policy" / "weights").unlink(), "weights"),
        (lambda path: (path / "extra").write_text(""), "extra"),
    ],
)
def test_a_changed_artifact_is_named(harm: object, named: str, pipeline: str, folder: Path):
    reference = train(pipeline, folder)
    path = artifacts.local_path(reference)
    harm(path)  # type: ignore[operator]
    with pytest.raises(ArtifactMismatchError, match=rf"{named}: not what MLflow run .* stored {reference.sha256}"):
        artifacts.find_output("sft", "f", ModelRef)


def test_an_artifact_that_is_gone_is_an_error_where_it_is_needed(pipeline: str, folder: Path):
    reference = train(pipeline, folder)
    subprocess.run(["rm", "-r", str(artifacts.local_path(reference))], check=True)
    with pytest.raises(ArtifactMismatchError, match="output"):
        artifacts.local_path(reference)


def test_outputs_are_named_by_stage_run_or_pipeline_run(client: MlflowClient, pipeline: str, folder: Path):
    reference = train(pipeline, folder)
    log_metrics(reference.run_id, {"sft/validation_loss": 1.5, "sft/learning_rate": 1.0, "sft/trained_seconds": 9.0})
    link_stage(pipeline, "sft", reference.run_id, "f", 2.0)
    assert artifacts.output_of(pipeline, "sft", ModelRef) == (reference, "f")
    assert artifacts.output_of(reference.run_id, "sft", ModelRef) == (reference, "f")
    assert client.get_run(pipeline).data.metrics == {
        "sft/validation_loss": 1.5,
        "sft/seconds": 2.0,
        "sft/trained_seconds": 9.0,
    }
    for run_id, stage in ((pipeline, "policy"), (reference.run_id, "policy"), ("0" * 32, "sft"), ("it's", "sft")):
        with pytest.raises(InputError, match=f"{run_id} has no output of the stage {stage}"):
            artifacts.output_of(run_id, stage, ModelRef)


def test_the_same_policy_is_registered_once(client: MlflowClient, pipeline: str, folder: Path):
    def card() -> ModelCardRef:
        return ModelCardRef.model_validate(train(pipeline, folder).model_dump())

    first, again = card(), card()
    assert register_policy(first, "demo") == register_policy(again, "demo") == "demo/1"
    (folder / "notes").write_text("other")
    assert register_policy(card(), "demo") == "demo/2"
    assert str(client.get_model_version_by_alias("demo", "candidate").version) == "2"
    assert register_policy(again, "demo") == "demo/1"
    assert str(client.get_model_version_by_alias("demo", "candidate").version) == "1"
    assert client.get_model_version("demo", "1").tags["sha256"] == first.sha256


def test_a_data_set_is_an_input_with_a_digest(client: MlflowClient, pipeline: str):
    md5 = "0123456789abcdef0123456789abcdef.dir"
    log_dataset(pipeline, "data", md5, "data")
    (data,) = client.get_run(pipeline).inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("data", md5)


def test_links_lead_to_the_page_with_runs(client: MlflowClient, pipeline: str):
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    expected = f"#/experiments/{experiment.experiment_id}/runs/{pipeline}?workflowType=machine_learning"
    assert run_url(pipeline).endswith(expected)


def test_a_project_that_moved_finds_its_artifacts(
    project_root: Path, pipeline: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    reference = train(pipeline, folder)
    moved = tmp_path / "a new place"
    project_root.rename(moved)
    monkeypatch.setenv("RLHF_ROOT", str(moved))
    assert artifacts.find_output("sft", "f", ModelRef) == reference
    assert artifacts.local_path(reference).is_relative_to(moved)
    after = train(open_pipeline("demo", None, {}, {}), folder, "g")
    assert artifacts.local_path(after).is_relative_to(moved)
    assert not project_root.exists()


def test_metrics_of_a_store_that_was_gone_are_sent_by_the_next_run(
    client: MlflowClient, pipeline: str, project_root: Path, caplog: pytest.LogCaptureFixture
):
    database = project_root / "mlruns" / "mlflow.db"
    with caplog.at_level(logging.WARNING, "rlhf"), metric_log(pipeline) as log:
        log({"sft/loss": 1.0}, 1)
        hidden = database.read_bytes()
        database.write_bytes(b"not a database" * 1000)
    assert [record.message for record in caplog.records if str(local_folder("unsent")) in record.message]
    database.write_bytes(hidden)
    open_pipeline("demo", None, {}, {})
    (point,) = client.get_metric_history(pipeline, "sft/loss")
    assert (point.step, point.value) == (1, 1.0)
    assert not list(local_folder("unsent").iterdir())


@pytest.fixture
def server(tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(tmp_path, project_root / "mlruns" / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    server.start()
    yield server
    server.stop()


def test_a_server_that_stores_artifacts_elsewhere_and_goes_away(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spool, "SEND_EVERY_SECONDS", 0.1)
    monkeypatch.setattr(tracking_client, "PATIENCE_SECONDS", 60.0)
    pipeline = open_pipeline("demo", None, {}, {})
    assert run_url(pipeline).startswith(f"{server.url}/#/experiments/")
    reference = train(pipeline, folder)
    assert artifacts.stored_at(reference) is None
    assert (artifacts.local_path(reference) / "policy" / "weights").read_text() == "w"
    assert artifacts.find_output("sft", "f", ModelRef) == reference
    assert register_policy(reference, "demo") == "demo/1"

    with metric_log(pipeline) as log:
        log({"sft/loss": 3.0}, 1)
        server.stop()
        log({"sft/loss": 2.0}, 2)
        time.sleep(0.5)
        server.start()
    history = MlflowClient(server.url).get_metric_history(pipeline, "sft/loss")
    assert [(point.step, point.value) for point in history] == [(1, 3.0), (2, 2.0)]

    server.stop()
    monkeypatch.setattr(tracking_client, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(TrackingError, match=f"the MLflow store {server.url} failed"):
        open_pipeline("demo", None, {}, {})
    close_run(pipeline, "KILLED")


def test_a_run_whose_server_died_before_it_answered_is_made_once(project_root: Path, monkeypatch: pytest.MonkeyPatch):
    pipeline = open_pipeline("demo", None, {}, {})
    create = MlflowClient.create_run
    answers = iter([False, True])

    def create_run(*arguments: Any, **keywords: Any) -> Any:
        made = create(*arguments, **keywords)
        if next(answers):
            return made
        raise requests.ConnectionError("the answer was lost")

    monkeypatch.setattr(MlflowClient, "create_run", create_run)
    run_id = open_stage(pipeline, "sft", "f", {}, {})
    client = tracking_client.client()
    found = client.search_runs([client.get_run(pipeline).info.experiment_id], "tags.`rlhf.stage` = 'sft'")
    assert [run.info.run_id for run in found] == [run_id]


@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
def test_a_run_that_a_late_server_made_twice_is_one_in_the_end(
    status: Literal["FINISHED", "FAILED"], client: MlflowClient, monkeypatch: pytest.MonkeyPatch
):
    """The first is made, unseen yet by whoever looks for it, when its client has waited long enough."""
    own = tracking_client.client()
    create, search, made = own.create_run, own.search_runs, []

    def create_late(*arguments: Any, **keywords: Any) -> Any:
        made.append(create(*arguments, **keywords))
        if len(made) == 1:
            raise requests.ReadTimeout("no answer in 10 s")
        return made[-1]

    monkeypatch.setattr(own, "create_run", create_late)
    monkeypatch.setattr(own, "search_runs", lambda *_, **__: PagedList([], None))
    run_id = open_run("twice", "reproduction", {})
    monkeypatch.setattr(own, "search_runs", search)
    assert [run.info.run_id for run in made][1:] == [run_id]
    close_run(run_id, status)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.status) == (run_id, status)


def test_a_server_that_is_not_there_is_told_within_seconds(project_root: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        begun = time.monotonic()
        with pytest.raises(TrackingError, match=f"http://127.0.0.1:{port} failed: .*; look whether it runs"):
            check_reachable()
    with pytest.raises(TrackingError, match="refused"):
        check_reachable()
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("uri", "what"),
    [
        ("http://no-such-host.invalid", "the MLflow store http://no-such-host.invalid failed: Failed to resolve"),
        ("foo://bar", "the MLflow store foo://bar failed: .*unsupported URI"),
        ("sqlite:///FOLDER/x.db", "x.db failed: file is not a database; look whether it runs, set MLFLOW_TRACKING_URI"),
        ("postgresql+psycopg://user:" + "secret@127.0.0.1:9/x", r"store postgresql\+psycopg://127.0.0.1:9/x failed: "),
    ],
)
def test_a_store_that_cannot_be(uri: str, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    uri = uri.replace("FOLDER", str(tmp_path))
    (tmp_path / "x.db").write_text("hello, and no database" * 100)
    monkeypatch.setattr("rlhf.tracking.client.ANSWER_SECONDS", 3.0)
    # MLflow goes on trying, for a hundred seconds, and no other store can be opened meanwhile.
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises((TrackingError, OSError), match=what) as error:
        check_reachable()
    assert "secret" not in str(error.value)


def test_a_file_that_is_no_store_is_named(project_root: Path):
    (project_root / "mlruns" / "mlflow.db").write_text("hello, and no database" * 100)
    with pytest.raises(InputError, match=r"mlruns/mlflow.db failed: file is not a database; look whether that file"):
        check_reachable()


def restore(message: str) -> None:
    """Run the command that a message shows."""
    subprocess.run(message.split("`")[1], shell=True, check=True, capture_output=True)


def test_a_deleted_experiment_is_told_with_the_way_back(client: MlflowClient, pipeline: str, capsys: Any):
    from rlhf.cli.main import main

    experiment = client.get_run(pipeline).info.experiment_id
    client.delete_experiment(experiment)
    tracking_client._experiment_of.cache_clear()
    with pytest.raises(InputError, match="the experiment rlhf was deleted in the MLflow store sqlite:///") as error:
        check_reachable()
    for command in (["runs"], ["compare", pipeline], ["verify", pipeline], ["gc"], ["reproduce", pipeline]):
        assert main(command) == 2, command
        assert capsys.readouterr().err == f"rlhf: error: {error.value}\n"
    restore(str(error.value))
    assert main(["runs"]) == 0
    check_reachable()


def test_a_deleted_run_is_told_with_the_way_back(client: MlflowClient, pipeline: str, capsys: Any):
    from rlhf.cli.main import main

    client.delete_run(pipeline)
    for command in (["compare", pipeline[:8], "candidate"], ["verify", pipeline], ["lineage", pipeline[:10]]):
        assert main(command) == 2, command
        message = capsys.readouterr().err
        assert message.startswith(
            f"rlhf: error: run {pipeline} was deleted in MLflow; restore it: `MLFLOW_TRACKING_URI="
        )
    restore(message)
    assert client.get_run(pipeline).info.lifecycle_stage == "active"


def test_a_question_makes_no_store(project_root: Path, capsys: Any):
    from rlhf.cli.main import main

    (project_root / "mlruns" / "mlflow.db").unlink()
    for command in (["runs"], ["compare", "aaaaaa"], ["verify", "champion"], ["lineage", "v1"], ["gc"]):
        assert main(command) == 2, command
        assert "nothing was run in this project yet" in capsys.readouterr().err
    assert not (project_root / "mlruns" / "mlflow.db").exists()


def test_the_table_of_runs_opens_with_columns(client: MlflowClient, pipeline: str):
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    view = json.loads(experiment.tags["mlflow.sharedViewState.rlhf"])
    state = json.loads(view["state"])
    assert "metrics.`evaluation/win_rate`" in state["selectedColumns"]
    named = [name[9:-1] for name in state["selectedColumns"] if name.startswith("metrics.")]
    assert all(describe(name).summary for name in named)
    assert runs_url().endswith("/runs?workflowType=machine_learning&viewStateShareKey=rlhf")


def test_a_stage_gives_its_pipeline_the_curves_to_compare_by(client: MlflowClient, pipeline: str):
    stage = open_stage(pipeline, "policy", "f", {}, {})
    with metric_log(stage) as log:
        for step in range(1, 1203):
            log({"policy/kl_mean": step / 10, "policy/clip_fraction": 0.5}, step)
    for _ in range(2):  # a retried flow run links its stages again
        link_stage(pipeline, "policy", stage, "f", 1.0)
    points = client.get_metric_history(pipeline, "policy/kl_mean")
    assert [(point.step, point.value) for point in points] == [(step, step / 10) for step in range(1, 1203)]
    assert client.get_metric_history(pipeline, "policy/clip_fraction") == []

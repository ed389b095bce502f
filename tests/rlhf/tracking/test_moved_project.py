"""A project under another path: its artifacts are found there, and no row of MLflow's tables changes."""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking._tracking_service import utils as tracking_service
from recorded_runs import Recorded, new_project, record_run
from tracking_server import Server

from rlhf.cli.main import main
from rlhf.config.pipeline import PipelineConfig
from rlhf.paths import tracking_database
from rlhf.references import ModelRef
from rlhf.services.settings import NAMES_VARIABLE
from rlhf.tracking import artifacts, sqlite_store
from rlhf.tracking.artifact_files import read_file, write_files
from rlhf.tracking.client import UnusableStoreError, client, experiment_id
from rlhf.tracking.files import read_bytes
from rlhf.tracking.run_details import delete_artifact
from rlhf.tracking.runs import finish_stage, open_pipeline, open_stage
from rlhf.tracking.stores import open_store

ROWS = (
    "SELECT experiment_id, artifact_location FROM experiments ORDER BY 1",
    "SELECT run_uuid, artifact_uri FROM runs ORDER BY 1",
    "SELECT name, version, source, storage_location FROM model_versions ORDER BY 1, 2",
)


@pytest.fixture(scope="module")
def recorded(
    migrated_mlflow: Path, empty_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Recorded]:
    folder = tmp_path_factory.mktemp("recorded") / "first place"
    with new_project(folder, empty_repository, migrated_mlflow):
        return folder, record_run(PipelineConfig())


@pytest.fixture
def project(recorded: tuple[Path, Recorded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a project, which is so another place than the one that MLflow has written down."""
    go_to(shutil.copytree(recorded[0], tmp_path / "second place", symlinks=True), monkeypatch)
    return tmp_path / "second place"


@pytest.fixture
def unknown_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "KNOWN_SCHEMAS", {})


def go_to(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the project there, as a new process sees it."""
    monkeypatch.setenv("RLHF_ROOT", str(place))
    tracking_service._artifact_repos_cache.clear()


def rows() -> list[Any]:
    with contextlib.closing(sqlite3.connect(tracking_database())) as database:
        return [database.execute(query).fetchall() for query in ROWS]


def save(parent: str, fingerprint: str, folder: Path) -> ModelRef:
    """A stage's run with an output."""
    (folder / fingerprint).mkdir()
    (folder / fingerprint / "weights").write_text(fingerprint)
    run_id = open_stage(parent, "sft", fingerprint, {}, {})
    uri, sha256 = artifacts.save_output(run_id, folder / fingerprint)
    reference = ModelRef(run_id=run_id, uri=uri, sha256=sha256)
    finish_stage(run_id, reference)
    return reference


@pytest.mark.parametrize("schema", ["known", "unknown"])
def test_artifacts_are_those_of_this_place(
    recorded: tuple[Path, Recorded], project: Path, schema: str, request: pytest.FixtureRequest, tmp_path: Path
):
    if schema == "unknown":
        request.getfixturevalue("unknown_schema")
    first, run = recorded
    before = rows()
    assert all(first.as_uri() in uri for _, uri in before[1])
    for reference in run.outputs.values():
        # Where the tables are not known MLflow brings a copy.
        assert artifacts.local_path(reference).is_relative_to(project)
    (record,) = open_store().runs([run.run_id]).values()
    assert read_file(record, "provenance/record.json") == read_bytes(run.run_id, "provenance/record.json") is not None
    write_files(record, "comparison", {"text.md": b"new"})
    new = save(run.run_id, "new", tmp_path)
    delete_artifact(run.outputs["sft"].run_id, "output")
    assert set(before[1]) < set(rows()[1])
    assert [rows()[0], rows()[2]] == [before[0], before[2]]

    written = project / "mlruns" / "artifacts"
    assert (written / run.run_id / "artifacts" / "comparison" / "text.md").read_bytes() == b"new"
    assert (written / new.run_id / "artifacts" / "output" / "weights").is_file()
    assert not (written / run.outputs["sft"].run_id / "artifacts" / "output").exists()
    there = first / "mlruns" / "artifacts"  # which is left alone
    assert not (there / run.run_id / "artifacts" / "comparison").exists()
    assert not (there / new.run_id).exists()
    assert (there / run.outputs["sft"].run_id / "artifacts" / "output").is_dir()


def test_two_mounts_back_and_forth(recorded: tuple[Path, Recorded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Only one of two names of a folder is there at a time, as for a container and its host."""
    _, run = recorded
    here = shutil.copytree(recorded[0], tmp_path / "mounted", symlinks=True)
    saved: list[ModelRef] = []
    for name in ("host", "container", "host", "container"):
        here = here.rename(tmp_path / name)
        go_to(here, monkeypatch)
        before = rows()
        assert [artifacts.find_output("sft", one.uri, ModelRef) for one in saved] == [None] * len(saved)
        for reference in (*run.outputs.values(), *saved):
            assert artifacts.local_path(reference).is_relative_to(here)
        assert main(["runs"]) == main(["lineage", run.run_id]) == main(["verify", run.run_id]) == 0
        saved.append(save(run.run_id, f"{name}{len(saved)}", tmp_path))
        assert all(set(old) <= set(new) for old, new in zip(before, rows(), strict=True))
    assert {path.name for path in tmp_path.iterdir() if path.is_dir() and (path / "mlruns").exists()} == {"container"}


def test_runs_of_another_store_keep_their_place(project: Path, tmp_path: Path):
    """A server may tell of runs of a project that this one is a copy of."""
    unknown = f"{tmp_path.as_uri()}/artifacts/{'0' * 32}/artifacts"
    client()
    assert get_artifact_repository(unknown).artifact_uri == unknown
    assert get_artifact_repository(tmp_path.as_uri()).artifact_uri == tmp_path.as_uri()


@pytest.mark.parametrize("scheme", ["file://", ""])
def test_a_folder_that_somebody_chose_stays(project_root: Path, tmp_path: Path, scheme: str):
    client().create_experiment("rlhf", artifact_location=f"{scheme}{tmp_path / 'chosen'}")
    reference = save(open_pipeline("demo", None, {}, {}), "f", tmp_path)
    assert artifacts.local_path(reference).is_relative_to(tmp_path / "chosen")


def test_a_store_that_a_server_has_made(project_root: Path):
    client().create_experiment("rlhf", artifact_location="mlflow-artifacts:/1")
    with pytest.raises(UnusableStoreError, match=r"keeps its artifacts at mlflow-artifacts:/1, which is no folder"):
        experiment_id()


@pytest.fixture
def server(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv(NAMES_VARIABLE, "127.0.0.1")
    server = Server(tmp_path, project / "mlruns" / "mlflow.db")
    server.command += ["--app-name", "rlhf"]
    server.start()
    yield server
    server.stop()


def test_over_a_server(
    recorded: tuple[Path, Recorded], project: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, run = recorded
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    assert client().get_run(run.run_id).info.artifact_uri.startswith(first.as_uri())
    shown = httpx.get(f"{server.url}/get-artifact", params={"run_uuid": run.run_id, "path": "config.yaml"})
    inner = project / "mlruns" / "artifacts" / run.run_id / "artifacts" / "config.yaml"
    assert shown.content == inner.read_bytes()
    inner.write_text("changed: here")
    assert read_bytes(run.run_id, "config.yaml") == b"changed: here"
    new = save(run.run_id, "new", tmp_path)
    assert artifacts.local_path(new).is_relative_to(project)
    assert not (first / "mlruns" / "artifacts" / new.run_id).exists()

"""A host that reaches the store of another one through its server, or by a disk of both: nothing is lost in silence."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking._tracking_service import utils as tracking_service
from tracking_server import Server

from rlhf.paths import artifacts_folder, local_folder
from rlhf.references import ModelRef
from rlhf.services.settings import NAMES_VARIABLE
from rlhf.tracking import artifacts
from rlhf.tracking.artifact_checks import check_artifacts, check_location, check_no_folder
from rlhf.tracking.client import UnusableStoreError, client, experiment_id, prepare_store
from rlhf.tracking.run_details import delete_artifact
from rlhf.tracking.runs import finish_stage, open_pipeline, open_stage
from rlhf.tracking.store_host import OtherHostError, check_host


@pytest.fixture
def first(tmp_path: Path, migrated_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project of the host with the servers, whose runs have their artifacts in a folder of it."""
    root = tmp_path / "first"
    (root / "mlruns").mkdir(parents=True)
    shutil.copy(migrated_mlflow, root / "mlruns" / "mlflow.db")
    monkeypatch.setenv("RLHF_ROOT", str(root))
    monkeypatch.setenv(NAMES_VARIABLE, "127.0.0.1")
    prepare_store()
    return root


@pytest.fixture
def server(first: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server of `rlhf up`, or one that somebody started by hand; afterwards this is another host."""
    server = Server(first, first / "mlruns" / "mlflow.db")
    if getattr(request, "param", "rlhf up") == "rlhf up":
        server.command[server.command.index(str(first / "served"))] = artifacts_folder().as_uri()
        server.command += ["--app-name", "rlhf"]
    server.start()
    tracking_service._artifact_repos_cache.clear()
    monkeypatch.setenv("RLHF_ROOT", str(first.parent / "second"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    yield server
    server.stop()


def save(folder: Path) -> ModelRef:
    (folder / "made").mkdir()
    (folder / "made" / "weights").write_text("w")
    run_id = open_stage(open_pipeline("demo", None, {}, {}), "sft", "f", {}, {})
    uri, sha256 = artifacts.save_output(run_id, folder / "made")
    reference = ModelRef(run_id=run_id, uri=uri, sha256=sha256)
    finish_stage(run_id, reference)
    return reference


def test_what_is_written_here_is_on_the_disk_of_the_server(first: Path, server: Server, tmp_path: Path):
    check_location()
    reference = save(tmp_path)
    there = first / "mlruns" / "artifacts" / reference.run_id / "artifacts" / "output" / "weights"
    assert there.read_text() == "w"
    assert client().get_run(reference.run_id).info.artifact_uri.startswith(first.as_uri())
    assert artifacts.stored_at(reference) is None
    assert artifacts.find_output("sft", "f", ModelRef) == reference
    assert artifacts.local_path(reference).is_relative_to(local_folder("artifacts"))
    assert not (tmp_path / "second" / "mlruns").exists()
    delete_artifact(reference.run_id, "output")
    assert not there.exists()


def test_the_check_leaves_nothing(first: Path, server: Server):
    before = sorted(first.rglob("*.txt"))
    check_artifacts()
    assert sorted(first.rglob("*.txt")) == before
    assert not list((first / "mlruns" / "artifacts").glob("probe-*"))


@pytest.mark.parametrize("server", ["by hand"], indirect=True)
def test_a_folder_of_another_host_is_refused(first: Path, server: Server, tmp_path: Path):
    for check in (check_location, check_artifacts, lambda: save(tmp_path)):
        with pytest.raises(UnusableStoreError, match="what is written from here would not be seen there"):
            check()
    assert [path for root in ("first", "second") for path in (tmp_path / root).rglob("weights")] == []


def test_a_store_with_a_folder_takes_no_other_destination(first: Path):
    with pytest.raises(UnusableStoreError, match=r"s3://b/f: the store .*mlflow.db keeps the artifacts of its runs in"):
        check_no_folder("s3://b/f")


OTHER = {"name": "alpha", "machine": "0" * 32, "boot": "1" * 32}


def mounted(tmp_path: Path, kind: str) -> Path:
    """A list of mounts by which the test's folder is on a file system of a kind."""
    (tmp_path / "mountinfo").write_text(f"1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / {tmp_path} rw - {kind} b:/c rw\n")
    return tmp_path / "mountinfo"


def test_a_file_on_a_disk_of_two_hosts_is_refused(tmp_path: Path):
    database = tmp_path / "mlruns" / "mlflow.db"
    shared = mounted(tmp_path, "nfs4")
    check_host(database, shared)
    check_host(database, shared)
    note = database.with_suffix(".host")
    mine = note.read_text()
    note.write_text(json.dumps(OTHER))
    with pytest.raises(
        OtherHostError, match=r"store of the host alpha.*start `rlhf up` on alpha.*remove .*mlflow.host"
    ):
        check_host(database, shared)
    assert json.loads(note.read_text()) == OTHER
    note.unlink()  # as the message says
    check_host(database, shared)
    assert note.read_text() == mine


def test_a_moved_project_is_this_hosts(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    database = tmp_path / "mlflow.db"
    local = mounted(tmp_path, "ext4")
    database.with_suffix(".host").write_text(json.dumps(OTHER))
    with caplog.at_level(logging.WARNING, "rlhf"):
        check_host(database, local)
        check_host(database, local)
    (record,) = caplog.records
    assert "was the store of the host alpha" in record.message


def test_the_store_says_whose_it_is(project_root: Path):
    experiment_id()
    assert "boot" in json.loads((project_root / "mlruns" / "mlflow.host").read_text())

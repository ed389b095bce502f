"""Results of stages, as Prefect stores them: who can write such a file must not run code by it."""

import base64
import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.results import ResultRecord

from rlhf.config.model import ArchitectureConfig, ModelConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.supervised import SFTConfig
from rlhf.paths import local_folder
from rlhf.references import ModelRef, StageReport
from tasks.pipeline_run import pipeline_run
from tasks.stage import Attempt, stage

pytestmark = pytest.mark.usefixtures("project_root", "prefect_server")
Tamper = Callable[[dict[str, Any], Path], dict[str, Any]]


@stage("sft", version="1", module="rlhf.policy.masking")
def train(attempt: Attempt, config: SFTConfig) -> ModelRef:
    """Write a file."""
    (attempt.workspace.output / "weights").write_text("w")
    return attempt.save(ModelRef)


@flow
def one_stage(config: PipelineConfig) -> StageReport:
    """A pipeline of one stage."""
    with pipeline_run(config) as (run, config):
        train(config.sft)
        return run.stages[-1]


def run_stage() -> StageReport:
    return one_stage(PipelineConfig(model=ModelConfig(architecture=ArchitectureConfig())))


class Touch:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def pickled(record: dict[str, Any], marker: Path) -> dict[str, Any]:
    record["metadata"]["serializer"] = {"type": "pickle", "picklelib": "pickle"}
    return record | {"result": base64.encodebytes(pickle.dumps(Touch(marker))).decode()}


def packed(record: dict[str, Any], marker: Path) -> dict[str, Any]:
    record = pickled(record, marker)
    record["metadata"]["serializer"] = {"type": "compressed/pickle"}
    return record


def another_json(record: dict[str, Any], marker: Path) -> dict[str, Any]:
    record["metadata"]["serializer"]["jsonlib"] = "yaml"
    return record


def another_decoder(record: dict[str, Any], marker: Path) -> dict[str, Any]:
    record["metadata"]["serializer"]["object_decoder"] = "builtins.print"
    return record


def a_function(record: dict[str, Any], marker: Path) -> dict[str, Any]:
    called = {"__class__": "subprocess.getoutput", "data": {"cmd": f"touch {marker}"}}
    return record | {"result": json.dumps(called)}


def a_function_within(record: dict[str, Any], marker: Path) -> dict[str, Any]:
    result = json.loads(record["result"])
    result["data"]["uri"] = {"__class__": "subprocess.getoutput", "data": {"cmd": f"touch {marker}"}}
    return record | {"result": json.dumps(result)}


def as_old_versions_wrote_it(record: dict[str, Any], marker: Path) -> dict[str, Any]:
    record = pickled(record, marker)
    return {"data": record["result"], "serializer": record["metadata"]["serializer"], "prefect_version": "2.0"}


def no_record(record: dict[str, Any], marker: Path) -> dict[str, Any]:
    return {}


TAMPERED = (
    pickled,
    packed,
    another_json,
    another_decoder,
    a_function,
    a_function_within,
    as_old_versions_wrote_it,
    no_record,
)


class TestTampered:
    """Prefect unpickled a result file that named pickle, although the task's serializer is JSON."""

    @pytest.mark.parametrize("tamper", TAMPERED)
    def test_is_removed_unread_and_made_again(
        self, tmp_path: Path, tamper: Tamper, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trained = run_stage()
        (file,) = local_folder("results").iterdir()
        sound = json.loads(file.read_bytes())
        marker = tmp_path / "owned"
        file.write_text(json.dumps(tamper(json.loads(file.read_bytes()), marker)))
        tampered, read = file.read_bytes(), []
        deserialize = ResultRecord.deserialize

        def watched(data: bytes, **more: Any) -> ResultRecord[Any]:
            read.append(data)
            return deserialize(data, **more)

        monkeypatch.setattr(ResultRecord, "deserialize", watched)
        with caplog.at_level(logging.WARNING, logger="rlhf.stage"):
            again = run_stage()
        assert (again.state, again.run_id) == ("cached", trained.run_id)
        assert not marker.exists()
        assert tampered not in read
        assert "this is no result of a stage" in caplog.text
        assert json.loads(file.read_bytes())["result"] == sound["result"]

    def test_a_link_and_what_is_no_json(self) -> None:
        for text in (None, "[" * 100_000, "not JSON", "", "[1]"):
            trained = run_stage()
            (file,) = local_folder("results").iterdir()
            file.unlink()
            file.symlink_to("/etc/passwd") if text is None else file.write_text(text)
            assert run_stage().run_id == trained.run_id
            assert not file.is_symlink()
            assert json.loads(file.read_bytes())["metadata"]["serializer"]["type"] == "json"

    def test_an_own_result_stays(self, caplog: pytest.LogCaptureFixture) -> None:
        run_stage()
        (file,) = local_folder("results").iterdir()
        before = file.stat().st_mtime_ns
        assert run_stage().state == "cached"
        assert file.stat().st_mtime_ns == before
        assert "no result of a stage" not in caplog.text

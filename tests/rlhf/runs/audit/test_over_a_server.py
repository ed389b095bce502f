"""The same where the store's artifacts are no folder of this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from recorded_runs import age, commit, make_data, record_run
from tracking_server import Server

from rlhf.config.pipeline import PipelineConfig
from rlhf.paths import local_folder
from rlhf.references import ModelRef
from rlhf.runs.audit.target import find_target
from rlhf.runs.audit.verify import verify
from rlhf.runs.gc.plan import make_plan
from rlhf.runs.gc.removal import carry_out
from rlhf.tracking import artifacts
from rlhf.tracking.client import client
from rlhf.tracking.queries import tags_of


@pytest.fixture
def served(project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which the server keeps artifacts."""
    make_data(project_root)
    commit(project_root)
    server = Server(tmp_path, project_root / "mlruns" / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    server.start()
    yield tmp_path / "served"
    server.stop()


@pytest.mark.slow
def test_verify_and_clear_up(served: Path):
    run, lost = record_run(PipelineConfig(seed=1)), record_run(PipelineConfig(seed=2))
    sft = run.outputs["sft"]
    assert artifacts.stored_at(sft) is None
    artifacts.local_path(sft)  # a copy that is sound proves nothing of the store
    assert verify(find_target(run.run_id)).findings == []
    (weights,) = served.glob(f"*/{sft.run_id}/artifacts/output/policy/model.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(b"other")
    assert [finding.what for finding in verify(find_target(run.run_id)).findings] == ["output/policy/model.safetensors"]
    weights.write_bytes(content)
    assert list(local_folder("artifacts").glob("tmp*")) == []

    client().set_registered_model_alias("demo", "candidate", "1")
    age(100, run.run_id, lost.run_id)
    artifacts.local_path(lost.outputs["sft"])
    plan = make_plan(30)
    assert {item.kind for item in plan.items} == {"stage outputs", "downloads"}
    assert {item.run_id for item in plan.items if item.run_id} == {one.run_id for one in lost.outputs.values()}
    assert carry_out(plan) == []
    assert list(served.glob(f"*/{lost.outputs['sft'].run_id}/artifacts/output")) == []
    assert make_plan(30).items == ()
    assert verify(find_target(run.run_id)).sound
    fingerprint = tags_of(lost.outputs["sft"].run_id)["rlhf.fingerprint"]
    assert artifacts.find_output("sft", fingerprint, ModelRef) is None

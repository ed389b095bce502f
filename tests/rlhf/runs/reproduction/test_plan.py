"""What a run cannot be made again for is named, all of it, before anything is done."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from rlhf.config.model import ModelConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import InputError
from rlhf.files.hashing import sha256
from rlhf.paths import source_root
from rlhf.provenance import GitState, Patch, StageRecord
from rlhf.provenance.capture import begin_record, with_data, with_stage
from rlhf.provenance.record import ProvenanceRecord
from rlhf.provenance.storage import save_code, save_record
from rlhf.references import DataSource
from rlhf.runs.reproduction.plan import NotReproducibleError, plan_reproduction
from rlhf.tracking.client import client
from rlhf.tracking.runs import open_pipeline, set_tags

EMBEDDED = DataSource(path="data", md5="1" * 32 + ".dir", tracked=True, embedded="calibrated_arithmetic")
NO_PATCH = Patch(b"", ())
OWN = EMBEDDED.model_copy(update={"embedded": None})


def head() -> str:
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=source_root(), capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def a_run(
    source: DataSource | None = EMBEDDED, patch: Patch = NO_PATCH, commit: str | None = None, **config: Any
) -> tuple[str, ProvenanceRecord]:
    """A run in the store, cut off after its data stage."""
    settings = PipelineConfig.model_validate(config)
    run_id = open_pipeline("run", None, settings.model_dump(mode="json"), {})
    record = begin_record(settings, GitState(commit or head(), dirty=bool(patch.content)), patch)
    if source is not None:
        record = with_data(record, source)
        record = with_stage(record, "data", StageRecord(fingerprint="f", sha256="s"))
    save_code(run_id, patch.content)
    save_record(run_id, record)
    return run_id, record


def test_a_run_of_which_all_is_there(project_root: Path):
    run_id, record = a_run(patch=Patch(b"a patch", ()))
    plan = plan_reproduction(run_id, num_threads=1)
    assert plan.record == record
    assert plan.patch == b"a patch"
    assert plan.settings == PipelineConfig().model_dump(mode="json")
    assert sha256(source_root() / "requirements.lock") == record.lock_sha256
    assert plan.lock == (source_root() / "requirements.lock").read_bytes()


@pytest.mark.parametrize("path", ["stories", "embedded/stories"])
def test_what_a_run_generates_is_never_missing(project_root: Path, path: str):
    stories = DataSource(path=path, md5="2" * 32 + ".dir", tracked=False, embedded="stories")
    run_id, record = a_run(stories, data={"embedded": "stories", "sampled_from": "base"})
    assert plan_reproduction(run_id).record.data == record.data


def test_all_that_is_missing_is_named_at_once(project_root: Path):
    run_id, _ = a_run(OWN, Patch(b"", (".env",)), commit="0" * 40, model=ModelConfig(base="owner/name"))
    with pytest.raises(NotReproducibleError) as raised:
        plan_reproduction(run_id)
    text = str(raised.value)
    assert "the run's patch lacks .env" in text
    assert f"commit {'0' * 40} is not in the clone" in text
    assert f"the data of version {OWN.md5} cannot be had" in text
    assert "not known which commit of owner/name was loaded" in text
    assert raised.value.exit_code == 2


def test_a_shallow_clone_is_told_so(project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from rlhf.runs.reproduction import plan

    whole, shallow = tmp_path / "whole", tmp_path / "shallow"
    for command in (
        ["git", "init", "--quiet", str(whole)],
        ["git", "-C", str(whole), "commit", "--quiet", "--allow-empty", "--message", "One"],
        ["git", "-C", str(whole), "commit", "--quiet", "--allow-empty", "--message", "Two"],
        ["git", "clone", "--quiet", "--depth", "1", f"file://{whole}", str(shallow)],
    ):
        subprocess.run(command, check=True)
    first = subprocess.run(["git", "-C", str(whole), "rev-parse", "HEAD~"], capture_output=True, text=True, check=True)
    run_id, _ = a_run(commit=first.stdout.strip())
    monkeypatch.setattr(plan, "source_root", lambda: shallow)
    with pytest.raises(NotReproducibleError, match="the clone is shallow: `git fetch --unshallow`"):
        plan_reproduction(run_id)
    monkeypatch.setattr(plan, "source_root", lambda: whole)
    plan_reproduction(run_id)
    monkeypatch.setattr(plan, "source_root", lambda: tmp_path)
    with pytest.raises(NotReproducibleError, match="is no git clone"):
        plan_reproduction(run_id)


def test_a_run_that_never_found_its_data(project_root: Path):
    run_id, _ = a_run(None)
    with pytest.raises(NotReproducibleError, match="ended before it had found its data"):
        plan_reproduction(run_id)


def test_data_outside_of_data_serves_while_it_is_what_was_read(project_root: Path, tmp_path: Path):
    from rlhf.files.hashing import dvc_md5

    file = tmp_path / "pairs.jsonl"
    file.write_text("{}\n")
    source = DataSource(path=str(file), md5=dvc_md5(file), tracked=False)
    run_id, _ = a_run(source, data={"path": str(file)})
    plan_reproduction(run_id)
    file.write_text("{}\n{}\n")
    with pytest.raises(NotReproducibleError, match=r"the data file .*pairs.jsonl, md5 .* is gone or was changed"):
        plan_reproduction(run_id)


def test_a_base_model_that_is_another_now(project_root: Path):
    folder = project_root / "base"
    folder.mkdir()
    (folder / "model.safetensors").write_text("1")
    run_id, record = a_run(model=ModelConfig(base="base"))
    plan_reproduction(run_id)
    (folder / "model.safetensors").write_text("2")
    with pytest.raises(NotReproducibleError, match=f"holds another model now.*{record.bases['model.base'].sha256}"):
        plan_reproduction(run_id)


@pytest.mark.parametrize("artifact", ["config.yaml", "provenance/requirements.lock", "provenance/code.patch"])
def test_what_was_changed_in_the_store_is_refused(project_root: Path, artifact: str):
    run_id, _ = a_run(patch=Patch(b"a patch", ()))
    client().log_text(run_id, "seed: 7\n", artifact)
    with pytest.raises(NotReproducibleError, match=f"{artifact} is missing, or is not .* `rlhf verify {run_id}`"):
        plan_reproduction(run_id)


def test_a_record_that_was_changed_in_the_store_is_refused(project_root: Path):
    run_id, record = a_run()
    changed = record.model_copy(update={"machine": record.machine | {"cpu": "another"}})
    client().log_text(run_id, changed.model_dump_json(), "provenance/record.json")
    with pytest.raises(NotReproducibleError, match="one of them was changed"):
        plan_reproduction(run_id)


def test_a_run_of_one_stage_that_took_the_others_from_elsewhere(project_root: Path):
    run_id, _ = a_run()
    set_tags(run_id, {"rlhf.used.data": "0" * 32, "rlhf.used.sft": "1" * 32})
    with pytest.raises(InputError, match="took data, sft from other runs"):
        plan_reproduction(run_id)


def test_recorded_outputs_that_are_gone_are_named(project_root: Path):
    run_id, record = a_run()
    made = record.model_copy(update={"stages": record.stages | {"sft": record.stages["data"]}})
    save_record(run_id, made)
    with pytest.raises(NotReproducibleError, match=r"the recorded output of data: .*has no output of the stage data"):
        plan_reproduction(run_id, stage="sft")


def test_no_threads_are_refused(project_root: Path):
    run_id, _ = a_run()
    with pytest.raises(InputError, match="0 is no number of threads"):
        plan_reproduction(run_id, num_threads=0)


def test_a_stage_that_was_never_finished(project_root: Path):
    run_id, _ = a_run()
    plan_reproduction(run_id, stage="data")
    with pytest.raises(InputError, match="never finished sft and reward_model and policy"):
        plan_reproduction(run_id, stage="policy")

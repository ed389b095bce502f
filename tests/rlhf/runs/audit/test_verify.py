"""Whatever was changed after it was logged is found by name, and nothing else is."""

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from recorded_runs import Audited, record_run

from rlhf.cli.main import main
from rlhf.config.pipeline import PipelineConfig
from rlhf.data.versions.resolve import track
from rlhf.errors import InputError
from rlhf.files.hashing import dvc_md5
from rlhf.files.manifest import folder_manifest, manifest_sha256
from rlhf.provenance.record import DataRecord, ProvenanceRecord, record_bytes
from rlhf.runs.audit.check_data import check_data
from rlhf.runs.audit.findings import Ledger
from rlhf.runs.audit.target import find_target
from rlhf.runs.audit.verify import verify
from rlhf.tracking import artifacts
from rlhf.tracking import client as tracking_client
from rlhf.tracking.runs import open_pipeline
from rlhf.tracking.tags import OUTPUT_TAG


def found(text: str) -> Ledger:
    return verify(find_target(text))


def names(ledger: Ledger) -> list[str]:
    return [finding.what for finding in ledger.findings]


def client() -> MlflowClient:
    return tracking_client.client()


def sql(root: Path, statement: str, *values: str) -> None:
    """What an editor of the store does, whom MLflow does not ask."""
    with contextlib.closing(sqlite3.connect(root / "mlruns" / "mlflow.db")) as database, database:
        assert database.execute(statement, values).rowcount == 1


def test_all_is_as_it_was_logged(audited: Audited, capsys: pytest.CaptureFixture[str]):
    for text in (audited.first.run_id, audited.second.run_id[:8], "candidate", "audited@candidate", "v1", "audited/1"):
        ledger = found(text)
        assert ledger.findings == []
        assert ledger.notes == []
        assert ledger.num_bytes > 0
        assert {"files", "parameters", "tags", "data", "provenance", "settings", "metrics", "registry"} <= set(
            ledger.checked
        )
    assert main(["verify", "candidate"]) == 0
    printed = capsys.readouterr().out
    assert "is as it was logged" in printed
    assert "MB/s" in printed


def test_a_byte_of_a_model(audited: Audited, capsys: pytest.CaptureFixture[str]):
    file = audited.second.file("policy", "output/policy/model.safetensors")
    content = bytearray(file.read_bytes())
    content[3] ^= 1
    file.write_bytes(content)
    ledger = found(audited.second.run_id)
    assert names(ledger) == ["output/policy/model.safetensors"]
    assert audited.second.outputs["policy"].run_id in ledger.findings[0].where
    assert found(audited.first.run_id).sound
    assert main(["verify", audited.second.run_id, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [finding["what"] for finding in told["findings"]] == ["output/policy/model.safetensors"]
    assert not told["sound"]


def test_a_file_that_is_gone_and_one_that_came(audited: Audited):
    audited.first.file("sft", "output/policy/config.json").unlink()
    audited.first.file("sft", "output/policy/more.json").write_text("{}")
    assert names(found(audited.first.run_id)) == ["output/policy/config.json", "output/policy/more.json"]
    # The second run has used this stage.
    assert not found(audited.second.run_id).sound


def test_an_output_that_is_gone(audited: Audited):
    shutil.rmtree(audited.first.file("sft", "output"))
    ledger = found(audited.first.run_id)
    assert [(finding.what, finding.found) for finding in ledger.findings] == [("output", "gone")]


def replace_output(audited: Audited, stage: str) -> str:
    """With its list of files. Returns the new sha256."""
    audited.second.file(stage, "output/policy/model.safetensors").write_text("other weights")
    manifest = folder_manifest(audited.second.file(stage, "output"))
    audited.second.file(stage, "output.sha256").write_text(manifest)
    return manifest_sha256(manifest)


def test_an_output_replaced_with_its_list(audited: Audited):
    sha256 = replace_output(audited, "policy")
    ledger = found(audited.second.run_id)
    assert names(ledger) == ["output.sha256", "output (all files)"]
    assert {finding.found for finding in ledger.findings} == {sha256}
    assert {finding.expected for finding in ledger.findings} == {audited.second.outputs["policy"].sha256}


def test_an_output_replaced_with_its_list_and_its_tag(audited: Audited):
    ppo = audited.second.outputs["policy"]
    other = ppo.model_copy(update={"sha256": replace_output(audited, "policy")})
    client().set_tag(ppo.run_id, OUTPUT_TAG, other.model_dump_json())
    assert names(found(audited.second.run_id)) == [
        "sha256 in the tag rlhf.output",
        "output.sha256",
        "output (all files)",
    ]


def test_an_editor_of_the_store_who_edits_it_well(audited: Audited, tmp_path: Path):
    """Output, list, tag, record and digest agree; the policy's folder, and a copy of it, do not."""
    copy = tmp_path / "kept elsewhere"
    shutil.copytree(artifacts.local_path(audited.second.outputs["model_card"]), copy)
    ppo = audited.second.outputs["policy"]
    other = ppo.model_copy(update={"sha256": replace_output(audited, "policy")})
    client().set_tag(ppo.run_id, OUTPUT_TAG, other.model_dump_json())
    file = audited.root / "mlruns/artifacts" / audited.second.run_id / "artifacts/provenance/record.json"
    record = ProvenanceRecord.model_validate_json(file.read_bytes())
    stage = record.stages["policy"].model_copy(update={"sha256": other.sha256})
    forged = record.model_copy(update={"stages": record.stages | {"policy": stage}})
    file.write_bytes(record_bytes(forged))
    client().set_tag(audited.second.run_id, "rlhf.provenance", forged.digest)
    assert names(found(audited.second.run_id)) == [
        "provenance.json against provenance/record.json: stages.policy.sha256",
    ]
    # He finds the policy's folder in the store as well, its list, tags, card and version.
    card = audited.second.outputs["model_card"]
    folder = audited.second.file("model_card", "output")
    (folder / "provenance.json").write_bytes(record_bytes(forged))
    readme = (folder / "README.md").read_text()
    (folder / "README.md").write_text(readme.replace(record.digest, forged.digest))
    manifest = folder_manifest(folder)
    folder.with_name("output.sha256").write_text(manifest)
    new = card.model_copy(update={"sha256": manifest_sha256(manifest)})
    client().set_tag(card.run_id, OUTPUT_TAG, new.model_dump_json())
    client().set_tag(audited.second.run_id, "rlhf.policy_sha256", new.sha256)
    client().set_model_version_tag("audited", "2", "sha256", new.sha256)
    assert found(audited.second.run_id).sound
    ledger = found(str(copy))
    assert "provenance.json against provenance/record.json: stages.policy.sha256" in names(ledger)
    assert {finding.where for finding in ledger.findings} == {f"folder {copy}"}


@pytest.mark.parametrize("name", ["seed", "rl.kl_coef", "rl.rewards"])
def test_a_parameter(audited: Audited, name: str):
    statement = "UPDATE params SET value = ? WHERE run_uuid = ? AND key = ?"
    sql(audited.root, statement, "4711", audited.first.run_id, name)
    ledger = found(audited.first.run_id)
    assert names(ledger) == [f"parameter {name}"]
    assert ledger.findings[0].found == "4711"


def test_a_long_parameter(audited: Audited):
    before = client().get_run(audited.first.run_id).data.params["name"]
    assert len(before) == 500
    sql(
        audited.root,
        "UPDATE params SET value = ? WHERE run_uuid = ? AND key = 'name'",
        before[:-1],
        audited.first.run_id,
    )
    assert names(found(audited.first.run_id)) == ["parameter name"]


def test_a_parameter_of_a_stage(audited: Audited):
    run_id = audited.first.outputs["sft"].run_id
    sql(audited.root, "UPDATE params SET value = '3' WHERE run_uuid = ? AND key = 'config.num_epochs'", run_id)
    ledger = found(audited.first.run_id)
    assert [(one.what, one.expected, one.found) for one in ledger.findings] == [
        ("parameter config.num_epochs", "2", "3")
    ]


def test_a_parameter_that_came_and_one_that_is_gone(audited: Audited):
    client().log_param(audited.first.run_id, "more", "1")
    sql(audited.root, "DELETE FROM params WHERE run_uuid = ? AND key = 'seed'", audited.first.run_id)
    ledger = found(audited.first.run_id)
    assert [(one.what, one.expected, one.found) for one in ledger.findings] == [
        ("parameter more", "no such parameter", "1"),
        ("parameter seed", "0", "gone"),
    ]


def test_the_settings(audited: Audited):
    file = audited.root / "mlruns/artifacts" / audited.first.run_id / "artifacts/config.yaml"
    file.write_text(file.read_text().replace("seed: 0", "seed: 1"))
    assert names(found(audited.first.run_id)) == ["config.yaml", "parameter seed"]
    file.write_text("- not a mapping\n")
    assert names(found(audited.first.run_id)) == ["config.yaml"]
    file.unlink()
    assert [(one.what, one.found) for one in found(audited.first.run_id).findings] == [("config.yaml", "gone")]


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"#")


def edit_metric(audited: Audited) -> None:
    statement = "UPDATE latest_metrics SET value = 0.9 WHERE run_uuid = ? AND key = 'evaluation/win_rate'"
    sql(audited.root, statement, audited.first.run_id)


def edit_record(audited: Audited) -> None:
    file = audited.root / "mlruns/artifacts" / audited.first.run_id / "artifacts/provenance/record.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 7'))


TAMPERED: dict[str, tuple[Callable[[Audited], object], str]] = {
    "the patch": (
        lambda a: change(a.root / "mlruns/artifacts" / a.first.run_id / "artifacts/provenance/code.patch"),
        "provenance/code.patch",
    ),
    "the lock": (
        lambda a: change(a.root / "mlruns/artifacts" / a.first.run_id / "artifacts/provenance/requirements.lock"),
        "provenance/requirements.lock",
    ),
    "the record": (edit_record, "provenance/record.json against the tag rlhf.provenance"),
    "the digest": (
        lambda a: client().set_tag(a.first.run_id, "rlhf.provenance", "0" * 64),
        "provenance/record.json against the tag rlhf.provenance",
    ),
    "the commit": (
        lambda a: client().set_tag(a.first.run_id, "mlflow.source.git.commit", "0" * 40),
        "tag mlflow.source.git.commit",
    ),
    "the version of the data": (
        lambda a: client().set_tag(a.first.run_id, "rlhf.data_md5", "0" * 32),
        "tag rlhf.data_md5",
    ),
    "a reference": (
        lambda a: client().set_tag(
            a.first.outputs["sft"].run_id,
            "rlhf.output",
            a.first.outputs["sft"].model_copy(update={"sha256": "0" * 64}).model_dump_json(),
        ),
        "sha256 in the tag rlhf.output",
    ),
    "a reference to another run": (
        lambda a: client().set_tag(
            a.first.outputs["policy"].run_id,
            "rlhf.output",
            a.first.outputs["policy"].model_copy(update={"uri": "runs:/other/output"}).model_dump_json(),
        ),
        "uri in the tag rlhf.output",
    ),
    "a fingerprint": (
        lambda a: client().set_tag(a.first.outputs["sft"].run_id, "rlhf.fingerprint", "0" * 64),
        "tag rlhf.fingerprint",
    ),
    "a stage's run": (
        lambda a: client().delete_run(a.first.outputs["evaluation"].run_id),
        "the run of evaluation",
    ),
    "a report": (lambda a: change(a.first.file("sft", "report/samples.md")), "report/samples.md"),
    "a metric": (edit_metric, "metric evaluation/win_rate"),
    "the card": (lambda a: change(a.first.file("model_card", "output/README.md")), "output/README.md"),
    "the sha256 of a version": (
        lambda a: client().set_model_version_tag("audited", "1", "sha256", "0" * 64),
        "tag sha256",
    ),
    "the sha256 of the policy": (
        lambda a: client().set_tag(a.first.run_id, "rlhf.policy_sha256", "0" * 64),
        "tag rlhf.policy_sha256",
    ),
    "a version": (lambda a: client().delete_model_version("audited", "1"), "the version"),
}


@pytest.mark.parametrize("what", list(TAMPERED))
def test_anything_else(audited: Audited, what: str):
    tamper, name = TAMPERED[what]
    tamper(audited)
    ledger = found(audited.first.run_id)
    if what == "a stage's run":
        name = f"MLflow run {audited.first.outputs['evaluation'].run_id}"
    assert name in names(ledger)
    assert all(finding.expected != finding.found for finding in ledger.findings)


def test_a_row_of_the_data(audited: Audited):
    file = audited.root / "data" / "demonstrations.jsonl"
    file.write_text(file.read_text().replace('3 + 1 ?", "completion": "4"', '3 + 1 ?", "completion": "5"'))
    ledger = found(audited.first.run_id)
    assert names(ledger) == ["data/demonstrations.jsonl:4"]
    assert '"completion": "4"' in ledger.findings[0].expected
    assert '"completion": "5"' in ledger.findings[0].found


def test_rows_and_files_of_the_data(audited: Audited):
    file = audited.root / "data" / "demonstrations.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-2]))
    (audited.root / "data" / "datasheet.md").unlink()
    (audited.root / "data" / "more.jsonl").write_text("{}\n")
    ledger = found(audited.first.run_id)
    assert names(ledger) == ["data/datasheet.md", "data/demonstrations.jsonl:19", "data/more.jsonl"]
    assert "18 lines, and there were 20" in ledger.findings[1].found


def test_another_version_of_the_data_is_no_finding(audited: Audited):
    file = audited.root / "data" / "demonstrations.jsonl"
    before = file.read_text()
    file.write_text(before + '{"prompt": "more"}\n')
    track(audited.root)
    ledger = found(audited.first.run_id)
    assert ledger.findings == []
    assert "at another version" in ledger.notes[0]
    # Of that version a row is changed too, and the cached one is damaged.
    file.write_text(before + '{"prompt": "less"}\n')
    (cached,) = [
        path for path in (audited.root / ".dvc/cache").rglob("*") if path.is_file() and path.read_text() == before
    ]
    cached.chmod(0o644)
    cached.write_text("damaged")
    assert "data/demonstrations.jsonl:21" in names(found(audited.first.run_id))
    assert any(name.startswith("demonstrations.jsonl of version") for name in names(found(audited.first.run_id)))


def test_data_that_is_not_here(audited: Audited):
    shutil.rmtree(audited.root / "data")
    assert "data is not here" in found(audited.first.run_id).notes[0]
    shutil.rmtree(audited.root / ".dvc/cache")
    assert "not in DVC's cache" in found(audited.first.run_id).notes[1]


def test_a_list_of_files_that_was_torn_is_a_finding(audited: Audited):
    (listing,) = (audited.root / ".dvc/cache").rglob("*.dir")
    listing.chmod(0o644)
    listing.write_bytes(listing.read_bytes()[:-10])
    shutil.rmtree(audited.root / "data")
    ledger = found(audited.first.run_id)
    (name,) = names(ledger)
    assert name.startswith("the list of version")
    assert ledger.findings[0].expected.endswith(".dir")


def test_where_the_data_is_comes_from_the_settings(audited: Audited):
    """A tag can be changed, and names another folder then."""
    client().set_tag(audited.first.run_id, "rlhf.data_path", "nowhere")
    (audited.root / "data" / "datasheet.md").write_text("changed\n")
    assert names(found(audited.first.run_id)) == ["data/datasheet.md:1"]


def test_a_copy_of_the_data_is_not_taken_for_data(audited: Audited):
    """data/ is what was read, which says nothing of a changed copy."""
    md5 = dvc_md5(audited.root / "data")
    copy = f".rlhf/data/{md5.removesuffix('.dir')}"
    shutil.copytree(audited.root / "data", audited.root / copy)
    (audited.root / copy / "datasheet.md").write_text("changed\n")
    data = DataRecord(path=copy, md5=md5, tracked=True, dirty=False, embedded=None, remote=None)
    ledger = Ledger()
    check_data(ledger, data, copy)
    assert [finding.what for finding in ledger.findings] == [f"{md5.removesuffix('.dir')}/datasheet.md:1"]


@pytest.mark.parametrize("gone", ["data.dvc", ".dvc"])
def test_data_that_dvc_does_not_track_any_more(audited: Audited, gone: str):
    """What was found stays found."""
    audited.first.file("sft", "output/policy/config.json").unlink()
    (audited.root / "data" / "datasheet.md").write_text("changed\n")
    path = audited.root / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    ledger = found(audited.first.run_id)
    assert names(ledger)[0] == "output/policy/config.json"
    assert len(ledger.findings) == 2
    assert any("DVC" in note for note in ledger.notes)
    shutil.rmtree(audited.root / "data")
    assert names(found(audited.first.run_id)) == ["output/policy/config.json"]


def test_an_output_that_was_removed_to_make_room(audited: Audited):
    artifacts.remove_output(audited.first.outputs["sft"].run_id)
    (finding,) = found(audited.second.run_id).findings
    assert "removed by `rlhf gc`" in finding.found
    assert f"rlhf reproduce {audited.first.run_id}" in finding.found


def test_a_policy_in_a_folder_of_its_own(audited: Audited, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    copy = tmp_path / "copy"
    shutil.copytree(artifacts.local_path(audited.first.outputs["model_card"]), copy)
    assert find_target(str(copy)).run_id == audited.first.run_id
    assert found(str(copy)).sound
    (copy / "model.safetensors").write_text("other weights")
    assert names(found(str(copy))) == ["the whole folder", "model.safetensors"]
    (copy / "provenance.json").write_text("{}")
    assert find_target(str(copy)).run_id == audited.first.run_id
    (copy / "README.md").unlink()
    assert main(["verify", str(copy)]) == 2
    (copy / "provenance.json").unlink()
    assert main(["verify", str(copy)]) == 2
    printed = capsys.readouterr().err
    assert "no run in this MLflow store has made this policy" in printed
    assert "there is no provenance.json here" in printed


def test_bad_input(audited: Audited, capsys: pytest.CaptureFixture[str]):
    almost = audited.first.run_id[:-2] + ("00" if not audited.first.run_id.endswith("00") else "11")
    assert main(["verify", almost]) == 2
    assert audited.first.run_id in capsys.readouterr().err
    run_id = open_pipeline("without provenance", None, {}, {})
    with pytest.raises(InputError, match="has no provenance"):
        found(run_id)


@pytest.mark.usefixtures("audited")
def test_a_comparison_comes_after_the_card_and_its_record():
    run = record_run(PipelineConfig(seed=9), stages=8)
    ledger = found(run.run_id)
    assert ledger.findings == []
    run.file("comparison", "output/config.json").write_text("[]")
    assert names(found(run.run_id)) == ["output/config.json"]


def test_a_record_that_is_gone(audited: Audited):
    (audited.root / "mlruns/artifacts" / audited.first.run_id / "artifacts/provenance/record.json").unlink()
    (finding,) = found(audited.first.run_id).findings
    assert (finding.what, finding.found) == ("provenance/record.json against the tag rlhf.provenance", "gone")

"""What the record of a run holds, and what stands in the way of a repetition."""

from pathlib import Path

import pytest

from rlhf.config.model import ModelConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.policy import RewardSourceConfig
from rlhf.config.rl import RLConfig
from rlhf.errors import InputError
from rlhf.provenance import GitState, Patch, StageRecord
from rlhf.provenance.capture import begin_record, default_remote, with_data, with_stage
from rlhf.provenance.storage import read_record, save_code, save_record
from rlhf.references import DataSource
from rlhf.tracking.client import client
from rlhf.tracking.files import read_bytes
from rlhf.tracking.queries import tags_of
from rlhf.tracking.runs import open_pipeline

CLEAN = GitState("c" * 40, dirty=False)
NO_PATCH = Patch(b"", ())
SOURCE = DataSource(path="data", md5="1" * 32 + ".dir", tracked=True)


def obstacles(git: GitState = CLEAN, patch: Patch = NO_PATCH, source: DataSource = SOURCE, **config: object) -> str:
    record = with_data(begin_record(PipelineConfig.model_validate(config), git, patch), source)
    return "; ".join(record.obstacles)


def test_what_stands_in_the_way_of_a_repetition(project_root: Path):
    assert obstacles() == ""
    assert obstacles(GitState("c" * 40, dirty=True), Patch(b"diff", ())) == ""
    assert obstacles(GitState(None, dirty=False)) == "the code is in no git commit"
    assert "the patch lacks .env" in obstacles(patch=Patch(b"", (".env",)))
    assert "data.dvc" in obstacles(source=SOURCE.model_copy(update={"dirty": True, "tracked": False}))
    assert "import" in obstacles(source=SOURCE.model_copy(update={"tracked": False}))
    assert obstacles(model=ModelConfig(base="owner/name", revision="a" * 40)) == ""


def test_a_hub_id_is_known_by_its_commit(project_root: Path):
    source = RewardSourceConfig(kind="model", path="owner/reward", revision="b" * 40)
    model = ModelConfig(base="owner/name", revision="a" * 40)
    bases = begin_record(PipelineConfig(model=model, rl=RLConfig(rewards=(source,))), CLEAN, NO_PATCH).bases
    assert {setting: (base.name, base.revision, base.sha256) for setting, base in bases.items()} == {
        "model.base": ("owner/name", "a" * 40, None),
        "rl.rewards.0.path": ("owner/reward", "b" * 40, None),
    }


def test_a_base_in_a_folder_is_known_by_its_content_and_no_path_is_published(project_root: Path, tmp_path: Path):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "model.safetensors").write_text("1")
    config = PipelineConfig(model=ModelConfig(base=str(folder)))
    before = begin_record(config, CLEAN, NO_PATCH).bases["model.base"]
    assert (before.name, before.revision) == ("PATH/TO/base", None)
    (folder / "model.safetensors").write_text("2")
    assert begin_record(config, CLEAN, NO_PATCH).bases["model.base"].sha256 != before.sha256
    elsewhere = with_data(begin_record(config, CLEAN, NO_PATCH), SOURCE.model_copy(update={"path": "/home/me/x.jsonl"}))
    assert "/home/me" not in elsewhere.model_dump_json()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (
            "[core]\n    remote = a\n['remote \"a\"']\n    url = /srv/dvc\n['remote \"b\"']\n    url = s3://b\n",
            "/srv/dvc",
        ),
        ("[core]\n    remote = a\n['remote \"a\"']\n    url = https://me:" + "secret@host:80/x\n", "https://host:80/x"),
        ("['remote \"a\"']\n    url = /srv/dvc\n", None),
        ("", None),
    ],
)
def test_the_address_of_the_default_remote(tmp_path: Path, text: str, address: str | None):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(text)
    assert default_remote(tmp_path) == address


def test_the_record_is_kept_in_mlflow_as_the_run_goes_on(project_root: Path):
    run_id = open_pipeline("demo", None, {}, {})
    config = PipelineConfig()
    record = begin_record(config, CLEAN, Patch(b"a patch", ()))
    save_code(run_id, b"a patch")
    save_record(run_id, record)
    assert read_record(run_id) == record
    assert read_bytes(run_id, "provenance/code.patch") == b"a patch"
    assert tags_of(run_id)["rlhf.provenance"] == record.digest
    later = with_stage(with_data(record, SOURCE), "data", StageRecord(fingerprint="f", sha256="s"))
    save_record(run_id, later)
    assert read_record(run_id) == later
    assert tags_of(run_id)["rlhf.provenance"] == later.digest != record.digest
    assert tags_of(run_id)["rlhf.reproducible"] == "true"


def test_a_run_without_a_record_or_with_another_file_in_its_place(project_root: Path):
    run_id = open_pipeline("demo", None, {}, {})
    with pytest.raises(InputError, match=f"MLflow run {run_id} has no provenance"):
        read_record(run_id)
    client().log_text(run_id, '{"recipe": "x"}', "provenance/record.json")
    with pytest.raises(InputError, match=r"is not a record of provenance .seed: Field required.*rlhf verify"):
        read_record(run_id)

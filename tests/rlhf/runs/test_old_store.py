"""A project whose two runs were recorded before the modules of rlhf/ moved (commit 6c3db4e), read by the code of today.

`old_store/store.tar.xz` holds it: the MLflow store, the data and its DVC cache, and the project's git repository.
"""

import json
import tarfile
from pathlib import Path

import pytest

from rlhf.cli.main import main
from rlhf.paths import source_root
from rlhf.provenance.code import has_commit

STORE = Path(__file__).parents[2] / "old_store" / "store.tar.xz"
FIRST, SECOND = "6ab3f5d30e9d47a49e60154590f0c94c", "ee396d45c5fa45989c28dbaa60069717"
COMMIT = "6c3db4eb6"


@pytest.fixture
def old_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project under another path than that at which it was recorded."""
    with tarfile.open(STORE) as archive:
        archive.extractall(tmp_path / "moved", filter="data")
    monkeypatch.setenv("RLHF_ROOT", str(tmp_path / "moved"))
    return tmp_path / "moved"


@pytest.mark.usefixtures("old_project")
def test_runs_are_listed(capsys: pytest.CaptureFixture[str]):
    assert main(["runs", "--json"]) == 0
    runs = {run["run_id"]: run for run in json.loads(capsys.readouterr().out)["runs"]}
    assert runs.keys() == {FIRST, SECOND}
    assert {run["recipe"] for run in runs.values()} == {"old-store"}
    assert {run["state"] for run in runs.values()} == {"finished"}


@pytest.mark.usefixtures("old_project")
def test_versions_of_the_model_that_all_recipes_shared(capsys: pytest.CaptureFixture[str]):
    """They are found by the names that they had, and by their recipe's."""
    for text in ("v2", "candidate", "rlhf-policy/2", "rlhf-policy@candidate", "old-store@candidate"):
        assert main(["verify", text]) == 0
        assert f"Run {SECOND}, version rlhf-policy/2 is as it was logged." in capsys.readouterr().out
    assert main(["runs", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [(run["policy_version"], run["aliases"]) for run in runs] == [
        ("rlhf-policy/2", ["candidate"]),
        ("rlhf-policy/1", []),
    ]
    assert main(["chat", "champion"]) == 2
    assert "the aliases that there are: old-store@candidate (rlhf-policy/2)" in capsys.readouterr().err


@pytest.mark.usefixtures("old_project")
@pytest.mark.parametrize("run_id", [FIRST, SECOND])
def test_a_run_is_verified(run_id: str, capsys: pytest.CaptureFixture[str]):
    assert main(["verify", run_id]) == 0, capsys.readouterr().out


def test_a_changed_weight_is_told(old_project: Path, capsys: pytest.CaptureFixture[str]):
    for file in old_project.glob("mlruns/artifacts/*/artifacts/output/model.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    assert main(["verify", FIRST]) == 1
    assert "model.safetensors" in capsys.readouterr().out


@pytest.mark.usefixtures("old_project")
def test_runs_are_compared(capsys: pytest.CaptureFixture[str]):
    assert main(["compare", FIRST, SECOND]) == 0
    said = capsys.readouterr().out
    assert "kl_coef" in said
    assert "0.2" in said


@pytest.mark.usefixtures("old_project")
def test_lineage_goes_back_to_the_data(capsys: pytest.CaptureFixture[str]):
    assert main(["lineage", FIRST]) == 0
    said = capsys.readouterr().out
    assert "906accf5" in said
    assert COMMIT[:7] in said


@pytest.mark.usefixtures("old_project")
def test_reproduction_is_planned(capsys: pytest.CaptureFixture[str]):
    if not has_commit(source_root(), COMMIT):
        pytest.skip(f"this clone lacks commit {COMMIT}: `git fetch --unshallow`")
    assert main(["reproduce", FIRST, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["run_id"] == FIRST
    assert plan["code"].startswith(COMMIT)
    assert plan["data"] == "data, md5 906accf5844eb8419b324b9871980696.dir"
    assert plan["environment"].startswith("made from its lock, sha256 ")
    assert plan["stages"] == "data, sft, reward_model, reward_audit, policy, evaluation, model_card"
    assert main(["reproduce", FIRST, "--dry-run"]) == 0
    assert COMMIT in capsys.readouterr().out
    assert main(["reproduce", FIRST, "--dry-run", "--keep"]) == 2
    assert "leave one of the two away" in capsys.readouterr().err

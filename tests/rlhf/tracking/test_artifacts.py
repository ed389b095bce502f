"""Artifacts of a store that is no local folder."""

from pathlib import Path

import pytest

from rlhf.files.manifest import folder_manifest, manifest_sha256
from rlhf.paths import local_folder
from rlhf.references import Reference
from rlhf.tracking import artifacts


class SlowServer:
    """Another run brings the same artifact while this one is on its way."""

    def __init__(self, sha256: str) -> None:
        self.sha256 = sha256

    def download_artifacts(self, run_id: str, name: str, folder: str) -> str:
        for parent in (Path(folder) / name, local_folder("artifacts") / self.sha256):
            parent.mkdir()
            (parent / "weights").write_text("the same")
        return folder


@pytest.mark.usefixtures("project_root")
def test_two_runs_that_need_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "weights").write_text("the same")
    sha256 = manifest_sha256(folder_manifest(tmp_path / "output"))
    monkeypatch.setattr(artifacts, "client", lambda: SlowServer(sha256))
    monkeypatch.setattr(artifacts, "stored_at", lambda reference: None)
    reference = Reference(run_id="r", uri="runs:/r/output", sha256=sha256)
    assert artifacts.local_path(reference) == local_folder("artifacts") / sha256
    assert list(local_folder("artifacts").glob("tmp*")) == []

"""Data folders, a real git and DVC repository, and the real data where it is."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from data_rows import demonstration, preference, user, write_folder

from rlhf.data import calibrated_arithmetic


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """A small folder in which everything is as it should be."""
    return write_folder(
        tmp_path / "given",
        {"demonstrations": [demonstration()], "preferences": [preference()], "prompts": [{"prompt": user("Hi")}]},
    )


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Public data that people made, which is no part of the project."""
    default = Path(__file__).resolve().parents[3].parent / "shared"
    folder = Path(os.environ.get("RLHF_SHARED", default)) / "realdata"
    if not folder.is_dir():
        pytest.skip(f"the real data is not there: no {folder}")
    return folder


@pytest.fixture(scope="session")
def embedded_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded") / "data"
    calibrated_arithmetic.generate(folder)
    return folder


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git and DVC repository of its own, which sees no settings of this machine."""
    root = tmp_path / "repository"
    root.mkdir()
    settings = {
        "DVC_NO_ANALYTICS": "true",
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
        "DVC_GLOBAL_CONFIG_DIR": str(tmp_path / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(tmp_path / "system"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    from dvc.repo import Repo

    Repo.init(str(root)).close()
    return root


@pytest.fixture
def embedded_repository(repository: Path, embedded_data: Path) -> Path:
    """A repository whose data/ is the embedded set, tracked and marked."""
    from rlhf.data.source import track

    shutil.copytree(embedded_data, repository / "data")
    track(repository, {"generator": "calibrated_arithmetic"})
    return repository


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """All files of a folder, to tell whether anything changed."""

    def read(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    return read

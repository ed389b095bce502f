"""Data folders, a real git and DVC repository, and the real data where it is."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from data_rows import demonstration, preference, user, write_folder

from rlhf.data.embedded import generate

_DVC_FOLDERS = ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG")


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """A small folder in which everything is as it should be."""
    return write_folder(
        tmp_path / "given",
        {"demonstrations": [demonstration()], "preferences": [preference()], "prompts": [{"prompt": user("Hi")}]},
    )


@pytest.fixture(scope="session")
def embedded_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded") / "data"
    generate("calibrated_arithmetic", folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    settings = {f"DVC_{name}_DIR": str(tmp_path_factory.mktemp("dvc")) for name in _DVC_FOLDERS}
    settings |= {"DVC_NO_ANALYTICS": "true", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def _empty_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dvc.repo import Repo

    root = tmp_path_factory.mktemp("empty") / "repository"
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    Repo.init(str(root)).close()
    return root


@pytest.fixture(scope="session")
def _embedded_repository(
    _empty_repository: Path, embedded_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    from rlhf.data.versions.resolve import track

    root = tmp_path_factory.mktemp("embedded") / "repository"
    shutil.copytree(_empty_repository, root)
    shutil.copytree(embedded_data, root / "data")
    track(root, {"generator": "calibrated_arithmetic"})
    return root


@pytest.fixture
def repository(_empty_repository: Path, tmp_path: Path) -> Path:
    """A git and DVC repository of its own."""
    return Path(shutil.copytree(_empty_repository, tmp_path / "repository"))


@pytest.fixture
def embedded_repository(_embedded_repository: Path, tmp_path: Path) -> Path:
    """A repository whose data/ is the embedded set, tracked and marked."""
    return Path(shutil.copytree(_embedded_repository, tmp_path / "repository"))


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """All files of a folder, to tell whether anything changed."""

    def read(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    return read

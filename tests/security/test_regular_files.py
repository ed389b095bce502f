"""Only regular files are read and hashed: a device or a pipe has no end, and what waits for it never goes on."""

import os
import socket
from pathlib import Path

import pytest
from outside import preference, write_data, write_lines

from rlhf.cli.main import main
from rlhf.config.data import DataConfig
from rlhf.data.importing.readers import open_source
from rlhf.data.schema import read_rows
from rlhf.data.versions.resolve import check, resolve
from rlhf.errors import InputError
from rlhf.files.hashing import dvc_md5, sha256
from rlhf.files.names import check_regular, open_regular

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe.jsonl")
    return tmp_path / "pipe.jsonl"


@pytest.fixture(
    params=["/dev/zero", "/dev/null", "/proc/self/environ", "/sys/kernel/mm/transparent_hugepage/enabled", "pipe"]
)
def endless(request: pytest.FixtureRequest, pipe: Path) -> Path:
    path = pipe if request.param == "pipe" else Path(request.param)
    if not path.exists():
        pytest.skip(f"this system has no {path}")
    return path


class TestDataPath:
    """`data.path` of /dev/zero, of a file of the kernel or of a folder with a pipe hung for ever."""

    def test_of_a_run(self, project: Path, endless: Path) -> None:
        for tell in (check, resolve):
            with pytest.raises(InputError, match=rf"{endless}: this is .*, and only"):
                tell(DataConfig(path=str(endless)), project)

    def test_a_folder_with_a_pipe(self, project: Path, tmp_path: Path) -> None:
        folder = write_data(tmp_path / "own")
        os.mkfifo(folder / "labels.jsonl")
        with pytest.raises(InputError, match=r"own/labels\.jsonl: this is a pipe, and only regular files are read"):
            resolve(DataConfig(path=str(folder)), project)

    def test_a_link_to_a_device(self, project: Path, tmp_path: Path) -> None:
        folder = write_data(tmp_path / "own")
        (folder / "labels.jsonl").symlink_to("/dev/zero")
        with pytest.raises(InputError, match="this is a device"):
            resolve(DataConfig(path=str(folder)), project)


class TestReaders:
    def test_import(self, project: Path, endless: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["data", "import", str(endless), "--replace"]) == 2
        assert f"{endless}: " in capsys.readouterr().err

    def test_import_of_a_folder_with_a_pipe(self, tmp_path: Path) -> None:
        write_lines(tmp_path / "set" / "a.jsonl", [preference(1)])
        os.mkfifo(tmp_path / "set" / "b.jsonl")
        with pytest.raises(InputError, match=r"b\.jsonl: this is a pipe"):
            open_source(str(tmp_path / "set"))

    def test_guidelines(self, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        given = write_lines(tmp_path / "a.jsonl", [preference(1)])
        assert main(["data", "import", str(given), "--guidelines", "/dev/zero", "--replace"]) == 2
        assert "/dev/zero: this is a device, and only regular files are read" in capsys.readouterr().err

    def test_rows_and_hashes(self, endless: Path) -> None:
        for read in (sha256, dvc_md5, open_regular, check_regular):
            with pytest.raises(InputError, match="this is"):
                read(endless)
        with pytest.raises(InputError):
            next(read_rows(endless, "preferences"))

    def test_a_socket(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("socket")
            with pytest.raises(InputError, match="socket: this is a socket"):
                check_regular(Path("socket"))

    def test_a_file_by_a_link_is_a_file(self, tmp_path: Path) -> None:
        given = write_lines(tmp_path / "a.jsonl", [preference(1)])
        (tmp_path / "link.jsonl").symlink_to(given)
        assert sha256(tmp_path / "link.jsonl") == sha256(given)

"""A version of the data is a list of files that somebody else may have written: it says no path and no code."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.cli.main import main
from rlhf.data.versions.inbox import check_out_branch
from rlhf.data.versions.resolve import check_out
from rlhf.data.versions.stores import parse_manifest
from rlhf.errors import DataError, InputError
from rlhf.files.hashing import dvc_md5
from rlhf.files.names import below
from rlhf.references import DataSource
from rlhf.runs.audit.check_data import check_version
from rlhf.runs.audit.findings import Ledger

SCRIPT = b"touch /tmp/owned\n"
LEAD_OUT = {
    "above": "../../../../escaped.sh",
    "above, further on": "a/../../../../escaped.sh",
    "absolute": "{outside}/escaped.sh",
    "empty": "",
    "the folder itself": ".",
    "NUL": "escaped\0.sh",
    "no text": 7,
}
Hostile = Callable[..., str]


@pytest.fixture
def hostile(project: Path, tmp_path: Path) -> Hostile:
    """Puts a version with one more file into the remote, and makes data.dvc name it. Returns its md5."""
    remote = tmp_path / "remote"
    (project / ".dvc" / "config").write_text(f"[core]\n    remote = store\n['remote \"store\"']\n    url = {remote}\n")
    known = dvc_md5(project / "data")

    def put(content: bytes, md5: str) -> None:
        path = remote / "files" / "md5" / md5[:2] / md5[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def make(relpath: object, md5: str = hashlib.md5(SCRIPT).hexdigest()) -> str:
        folder = project / "data"
        entries = [{"md5": dvc_md5(path), "relpath": path.name} for path in sorted(folder.iterdir())]
        for path in folder.iterdir():
            put(path.read_bytes(), dvc_md5(path))
        put(SCRIPT, hashlib.md5(SCRIPT).hexdigest())
        listing = json.dumps([*entries, {"md5": md5, "relpath": relpath}]).encode()
        version = hashlib.md5(listing).hexdigest() + ".dir"
        put(listing, version)
        file = project / "data.dvc"
        file.write_text(file.read_text().replace(known, version))
        subprocess.run(["git", "checkout", "--quiet", "-b", "theirs"], cwd=project, check=True)
        subprocess.run(["git", "commit", "--quiet", "--all", "--message", "Theirs"], cwd=project, check=True)
        shutil.rmtree(folder)
        return version

    return make


def files_of(folder: Path) -> set[Path]:
    """All files but those in DVC's own folder."""
    return {path for path in folder.rglob("*") if path.is_file() and not {".dvc", ".git"} & set(path.parts)}


@pytest.mark.parametrize("name", LEAD_OUT.values(), ids=LEAD_OUT.keys())
class TestAListThatLeadsOut:
    """A list of files with `..`, an absolute path, no path or a NUL wrote files anywhere before it was refused."""

    @pytest.fixture
    def version(self, hostile: Hostile, name: object, tmp_path: Path) -> str:
        return hostile(name.format(outside=tmp_path / "outside") if isinstance(name, str) else name)

    def test_pull(self, project: Path, version: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = files_of(tmp_path)
        assert main(["data", "pull"]) == 2
        assert files_of(tmp_path) == before
        assert not (project / "data").exists()
        said = capsys.readouterr().err
        assert version in said
        assert "is no name of a file below a folder" in said

    def test_the_branch_that_retraining_reads(self, project: Path, version: str, tmp_path: Path) -> None:
        before = files_of(tmp_path)
        with pytest.raises(DataError, match="is no name of a file below a folder"):
            check_out_branch("theirs", project)
        assert files_of(tmp_path) == before

    def test_what_reproduction_and_runs_bring(self, project: Path, version: str, tmp_path: Path) -> None:
        before = files_of(tmp_path)
        with pytest.raises(DataError, match="is no name of a file below a folder"):
            check_out(version, tmp_path / "tree" / "data", project)
        assert files_of(tmp_path) == before


class TestWhatElseAListSays:
    """The md5 in a list is a path of the cache, and names may clash."""

    @pytest.mark.parametrize("md5", ["../../../../etc/passwd", "/etc/passwd", "ABC", "", "0" * 31, "0" * 32 + ".dir"])
    def test_an_md5_that_is_none(
        self, hostile: Hostile, project: Path, md5: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        hostile("more.jsonl", md5)
        assert main(["data", "pull"]) == 2
        assert "is no md5" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("names", "why"),
        [(["a", "a"], "twice"), (["a", "./a"], "twice"), (["a", "a/b"], "is a file and a folder")],
    )
    def test_names_that_clash(self, names: list[str], why: str) -> None:
        text = json.dumps([{"relpath": name, "md5": "0" * 32} for name in names]).encode()
        with pytest.raises(ValueError, match=why):
            parse_manifest(text, "a list")

    def test_a_list_nested_without_end(self) -> None:
        with pytest.raises(ValueError, match="not what DVC writes"):
            parse_manifest(b"[" * 100_000, "a list")

    def test_verify_reads_the_same_list(self, project: Path, hostile: Hostile) -> None:
        version = hostile("../../escaped.sh")
        cached = project / ".dvc" / "cache" / "files" / "md5" / version[:2] / version[2:]
        cached.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project.parent / "remote" / "files" / "md5" / version[:2] / version[2:], cached)
        ledger = Ledger()
        check_version(ledger, DataSource(path="data", md5=version, tracked=True))
        assert "is no name of a file below a folder" in ledger.notes[0]


class TestTheMd5OfDataDvc:
    """The md5 in data.dvc names a folder that is replaced: `../..` there removed what it led to."""

    @pytest.mark.parametrize("md5", ["../../keep.dir", "/tmp/keep.dir", "abc.dir", "0" * 32 + ".dir/../../keep"])
    def test_on_a_branch(self, project: Path, md5: str) -> None:
        (project / "keep").mkdir()
        (project / "data.dvc").write_text(f"outs:\n- md5: {md5}\n  path: data\n")
        subprocess.run(["git", "commit", "--quiet", "--all", "--message", "Theirs"], cwd=project, check=True)
        with pytest.raises(DataError, match="not 32 hexadecimal digits"):
            check_out_branch("HEAD", project)
        assert (project / "keep").is_dir()

    def test_of_a_record(self, project: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="is no version of a data folder"):
            check_out("../../../keep.dir", tmp_path / "out", project)


class TestBelow:
    """A path stays in its folder, also by way of links in it; the folder itself may be one."""

    def test_a_link_that_leads_out(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "link").symlink_to(tmp_path)
        with pytest.raises(InputError, match=r"a list: 'link/file' leads out of .* by a link"):
            below(tmp_path / "folder", "link/file", "a list")

    def test_a_folder_that_is_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "disk").mkdir()
        (tmp_path / "folder").symlink_to(tmp_path / "disk")
        assert below(tmp_path / "folder", "a/b.jsonl", "a list") == tmp_path / "folder" / "a" / "b.jsonl"

    def test_a_name_that_is_no_text(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="the name is not UTF-8"):
            below(tmp_path, "a\udce9", "a list")

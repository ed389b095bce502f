"""Versions out of DVC's cache and out of real remotes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from data_rows import preference, write_lines
from versioned import add_remote, cached, stored

from rlhf.config.data import DataConfig
from rlhf.data.versions.resolve import check_out, resolve, track
from rlhf.errors import DataError
from rlhf.files.hashing import dvc_md5
from rlhf.progress import watching

Contents = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def versions(repository: Path, data_folder: Path) -> list[str]:
    """The md5 of two versions in the repository's cache, the second in place."""
    shutil.copytree(data_folder, repository / "data")
    first = track(repository)
    write_lines(repository / "data" / "preferences.jsonl", [preference(), preference("What is 2 + 2 ?", "4")])
    return [first, track(repository)]


def push(root: Path, remote: str) -> None:
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        repo.push(remote=remote)


class TestBring:
    def test_any_version_of_the_cache(
        self, repository: Path, versions: list[str], data_folder: Path, tmp_path: Path, contents: Contents
    ) -> None:
        before = contents(repository / "data")
        check_out(versions[0], tmp_path / "first", repository)
        assert contents(tmp_path / "first") == contents(data_folder)
        check_out(versions[1], tmp_path / "second", repository)
        assert dvc_md5(tmp_path / "second") == versions[1]
        assert contents(repository / "data") == before

    def test_what_is_there_already(self, repository: Path, versions: list[str], tmp_path: Path) -> None:
        for _ in range(2):
            check_out(versions[0], tmp_path / "first", repository)
        with pytest.raises(DataError, match="the folder holds other data"):
            check_out(versions[1], tmp_path / "first", repository)

    @pytest.mark.parametrize("default", [True, False])
    def test_from_a_remote_and_then_from_the_cache(
        self, repository: Path, versions: list[str], tmp_path: Path, default: bool
    ) -> None:
        add_remote(repository, "store", str(tmp_path / "store"), default)
        push(repository, "store")
        shutil.rmtree(repository / ".dvc" / "cache")
        seen = []
        with watching(lambda *progress: seen.append(progress)):
            check_out(versions[1], tmp_path / "out", repository)
        assert dvc_md5(tmp_path / "out") == versions[1]
        assert seen[-1] == ("data, MB", 0, 1)
        shutil.rmtree(tmp_path / "store")
        check_out(versions[1], tmp_path / "again", repository)

    def test_the_second_remote_where_the_first_does_not_have_it(
        self, repository: Path, versions: list[str], tmp_path: Path
    ) -> None:
        add_remote(repository, "zz", str(tmp_path / "store"))
        push(repository, "zz")
        add_remote(repository, "aa", str(tmp_path / "nothing"))
        shutil.rmtree(repository / ".dvc" / "cache")
        check_out(versions[1], tmp_path / "out", repository)
        assert dvc_md5(tmp_path / "out") == versions[1]

    def test_a_version_that_is_nowhere(self, repository: Path, versions: list[str], tmp_path: Path) -> None:
        nowhere = "0" * 32 + ".dir"
        with pytest.raises(DataError, match=rf"{nowhere} cannot be had: DVC's cache .* no remote is configured; name"):
            check_out(nowhere, tmp_path / "out", repository)
        add_remote(repository, "store", str(tmp_path / "store"))
        with pytest.raises(
            DataError, match=r"cache/files/md5\) does not have it; the remote store \(.*store/files/md5"
        ):
            check_out(nowhere, tmp_path / "out", repository)
        assert not list(tmp_path.glob("*out*"))

    def test_a_version_that_lacks_a_file(self, repository: Path, versions: list[str], tmp_path: Path) -> None:
        cached(repository, dvc_md5(repository / "data" / "prompts.jsonl")).unlink()
        with pytest.raises(DataError, match=rf"the data of version {versions[1]} cannot be had"):
            check_out(versions[1], tmp_path / "out", repository)
        assert not list(tmp_path.glob("*out*"))

    def test_no_version(self, repository: Path, versions: list[str], tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"abc is no version of a data folder, whose md5 ends with \.dir"):
            check_out("abc", tmp_path / "out", repository)

    @pytest.mark.parametrize("url", ["s3://bucket/data", "ssh://127.0.0.1:9/data"])
    def test_a_remote_that_refuses(
        self, repository: Path, versions: list[str], tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        add_remote(repository, "store", url)
        shutil.rmtree(repository / ".dvc" / "cache")
        with pytest.raises(DataError, match=r"the remote store \(.+/data/files/md5\) refuses: .+ check its address"):
            check_out(versions[0], tmp_path / "out", repository)


class TestDamage:
    def damage(self, root: Path) -> None:
        path = cached(root, dvc_md5(root / "data" / "prompts.jsonl"))
        path.chmod(0o644)
        path.write_bytes(path.read_bytes().replace(b"Hi", b"Ho"))

    def test_in_the_cache_is_mended_from_a_remote(self, repository: Path, versions: list[str], tmp_path: Path) -> None:
        add_remote(repository, "store", str(tmp_path / "store"))
        push(repository, "store")
        self.damage(repository)
        check_out(versions[1], tmp_path / "out", repository)
        assert dvc_md5(tmp_path / "out") == versions[1]

    def test_in_the_cache_alone_is_named(self, repository: Path, versions: list[str], tmp_path: Path) -> None:
        self.damage(repository)
        with pytest.raises(DataError, match=r"cannot be had: DVC's cache \(.*\) had it damaged; no remote"):
            check_out(versions[1], tmp_path / "out", repository)
        assert not list(tmp_path.glob("*out*"))

    def test_in_a_remote_is_named_and_not_kept(self, repository: Path, versions: list[str], tmp_path: Path) -> None:
        add_remote(repository, "store", str(tmp_path / "store"))
        push(repository, "store")
        shutil.rmtree(repository / ".dvc" / "cache")
        name = dvc_md5(repository / "data" / "prompts.jsonl")
        path = stored(tmp_path / "store", name)
        path.chmod(0o644)
        path.write_text(json.dumps({"prompt": "other"}))
        message = rf"the remote store \(.*\) has the file {name} damaged, as {path}; remove it there, then push again"
        with pytest.raises(DataError, match=message):
            check_out(versions[1], tmp_path / "out", repository)
        assert not cached(repository, name).exists()
        assert not list(tmp_path.glob("*out*"))

    @pytest.mark.parametrize("text", ["[", '[{"md5": "0"}]', "[1]", "3"])
    def test_of_the_list_of_files_is_named(
        self, repository: Path, versions: list[str], tmp_path: Path, text: str
    ) -> None:
        path = cached(repository, versions[1])
        path.chmod(0o644)
        path.write_text(text)
        path.chmod(0o444)  # DVC trusts a file of its cache that is read-only
        with pytest.raises(DataError, match=rf"the list of files of version {versions[1]} damaged .* remove {path}"):
            check_out(versions[1], tmp_path / "out", repository)


def test_a_run_brings_its_data_and_says_how_far_it_is(repository: Path, versions: list[str], tmp_path: Path) -> None:
    add_remote(repository, "store", str(tmp_path / "store"))
    push(repository, "store")
    shutil.rmtree(repository / ".dvc" / "cache")
    shutil.rmtree(repository / "data")
    seen = []
    with watching(lambda *progress: seen.append(progress)):
        assert resolve(DataConfig(), repository).md5 == versions[1]
    assert seen

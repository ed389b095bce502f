"""Push, pull and status with a real local remote, and with a real S3 endpoint on this machine."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from data_rows import preference, user, write_lines
from versioned import add_remote, cached, git, record, stored

from rlhf.config.data import DataConfig
from rlhf.data.versions.history import count_rows, find_version, history
from rlhf.data.versions.remotes import pull, push, status
from rlhf.data.versions.resolve import resolve
from rlhf.data.versions.stores import stores
from rlhf.data.versions.transaction import writing
from rlhf.errors import DataError
from rlhf.files.hashing import dvc_md5

FIRST = {"preferences": [preference()]}
SECOND = {"preferences": [preference(), preference("What is 2 + 2 ?", "4")]}


@pytest.fixture
def project(repository: Path, data_folder: Path) -> Path:
    shutil.copytree(data_folder, repository / "data")
    record(repository, FIRST, "first")
    return repository


@pytest.fixture
def shared(project: Path, tmp_path: Path) -> Path:
    add_remote(project, "store", str(tmp_path / "store"))
    return project


def tear(path: Path) -> None:
    """Cut a file off, as an upload or a disk that was full leaves it."""
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    path.chmod(0o444)


def forget(root: Path) -> None:
    shutil.rmtree(root / "data")
    shutil.rmtree(root / ".dvc" / "cache")


class TestPushAndPull:
    def test_a_local_remote(self, shared: Path, tmp_path: Path) -> None:
        md5 = dvc_md5(shared / "data")
        target, count = push(shared)
        assert (str(tmp_path / "store") in target, count) == (True, 5)
        assert push(shared)[1] == 0
        forget(shared)
        assert pull(shared)
        assert dvc_md5(shared / "data") == md5
        assert not pull(shared)

    def test_a_clone_has_the_same(self, shared: Path, tmp_path: Path) -> None:
        push(shared)
        git(shared, "add", ".dvc/config")
        git(shared, "commit", "--quiet", "--message", "remote")
        git(tmp_path, "clone", "--quiet", str(shared), "clone")
        assert pull(tmp_path / "clone")
        assert dvc_md5(tmp_path / "clone" / "data") == dvc_md5(shared / "data")

    def test_the_version_that_a_checkout_names(self, shared: Path) -> None:
        first = dvc_md5(shared / "data")
        record(shared, SECOND, "second")
        git(shared, "checkout", "--quiet", "HEAD~1")
        assert pull(shared)
        assert dvc_md5(shared / "data") == first

    def test_changes_are_not_lost(self, shared: Path, contents) -> None:
        record(shared, SECOND, "second")
        git(shared, "checkout", "--quiet", "HEAD~1")
        write_lines(shared / "data" / "prompts.jsonl", [{"prompt": user("By hand")}])
        before = contents(shared / "data")
        with pytest.raises(DataError, match="data/ holds changes that no version records"):
            pull(shared)
        assert contents(shared / "data") == before

    def test_without_a_remote(self, project: Path) -> None:
        with pytest.raises(DataError, match=r"no remote is configured; name one with `dvc remote add --default NAME"):
            push(project)
        forget(project)
        with pytest.raises(DataError, match=r"cannot be had: .* no remote is configured; name the one"):
            pull(project)
        assert not (project / "data").exists()

    def test_which_remote(self, project: Path, tmp_path: Path) -> None:
        for name in ("one", "two"):
            add_remote(project, name, str(tmp_path / name), default=False)
        with pytest.raises(DataError, match=r"none of the remotes one, two is the default; give --remote NAME"):
            push(project)
        with pytest.raises(DataError, match=r"there is no remote three; give one of one, two"):
            push(project, "three")
        push(project, "two")
        forget(project)
        with pytest.raises(DataError, match=r"the remote one \(.*\) does not have it"):
            pull(project, "one")
        assert pull(project, "two")

    def test_a_version_that_the_cache_lacks(self, shared: Path) -> None:
        shutil.rmtree(shared / ".dvc" / "cache")
        with pytest.raises(DataError, match=r"does not hold the version .* that data.dvc names; bring it"):
            push(shared)

    def test_what_is_torn_on_a_remote_is_mended(self, shared: Path, tmp_path: Path) -> None:
        md5, prompts = (dvc_md5(shared / name) for name in ("data", "data/prompts.jsonl"))
        push(shared)
        for file in (md5, prompts):
            tear(stored(tmp_path / "store", file))
            assert status(shared).remotes == {"store": "no"}
            assert push(shared)[1] == 1
            assert status(shared).remotes == {"store": "yes"}
        forget(shared)
        assert pull(shared)
        assert dvc_md5(shared / "data") == md5

    def test_what_is_torn_in_the_cache_is_not_pushed(self, shared: Path, tmp_path: Path) -> None:
        prompts = dvc_md5(shared / "data" / "prompts.jsonl")
        push(shared)
        tear(cached(shared, prompts))
        with pytest.raises(DataError, match=rf"has the file {prompts} damaged, so it is not pushed; remove /"):
            push(shared)
        assert dvc_md5(stored(tmp_path / "store", prompts)) == prompts

    def test_a_version_that_was_made_while_it_waited(self, project: Path) -> None:
        """data/ and data.dvc stay at one version."""
        shutil.rmtree(project / "data")
        code = (
            "import sys; from pathlib import Path; from rlhf.data.versions.remotes import pull; pull(Path(sys.argv[1]))"
        )
        with writing(project):
            waiting = subprocess.Popen([sys.executable, "-c", code, str(project)], stderr=subprocess.PIPE, text=True)
            assert waiting.stderr is not None
            assert "another process writes" in waiting.stderr.readline()
            resolve(DataConfig(), project)
            second = record(project, SECOND, "second")
        waiting.communicate()
        assert waiting.returncode == 0
        assert dvc_md5(project / "data") == second == resolve(DataConfig(), project).md5

    def test_a_remote_that_cannot_be_written(self, project: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        add_remote(project, "store", str(tmp_path / "file" / "store"))
        with pytest.raises(DataError, match=r"the remote store \(.*\) refuses: .* check its address"):
            push(project)

    def test_an_interrupted_pull_goes_on(self, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from dvc_objects.fs import generic

        md5 = dvc_md5(shared / "data")
        push(shared)
        forget(shared)
        transfer, moved = generic.transfer, []

        def cut_off(*arguments: object, **named: object) -> None:
            moved.append(arguments)
            if len(moved) == 4:
                raise KeyboardInterrupt
            transfer(*arguments, **named)

        monkeypatch.setattr(generic, "transfer", cut_off)
        with pytest.raises(KeyboardInterrupt):
            pull(shared)
        assert not (shared / "data").exists()
        assert not list(shared.glob(".rlhf-new-*"))
        assert pull(shared)
        assert len(moved) == 6  # the three that had come are not fetched again
        assert dvc_md5(shared / "data") == md5

    def test_the_embedded_data_needs_no_remote(self, embedded_repository: Path) -> None:
        forget(embedded_repository)
        assert pull(embedded_repository)


class TestStatus:
    def test_all_is_well(self, shared: Path) -> None:
        push(shared)
        found = status(shared)
        assert found.md5 == dvc_md5(shared / "data")
        assert (found.present, found.equal, found.committed, found.cached) == (True, True, True, True)
        assert (found.remotes, found.next) == ({"store": "yes"}, ())

    def test_each_thing_that_is_to_be_done(self, shared: Path) -> None:
        assert status(shared).next == ("copy the version to a remote with `rlhf data push`",)
        write_lines(shared / "data" / "prompts.jsonl", [{"prompt": user("By hand")}])
        found = status(shared)
        assert (found.equal, found.committed) == (False, True)
        assert "record it with `dvc add data`" in found.next[0]
        record(shared, SECOND, "second")
        (shared / "data.dvc").write_text((shared / "data.dvc").read_text().replace(found.md5 or "", "x"))
        git(shared, "reset", "--quiet", "--soft", "HEAD~1")
        found = status(shared)
        assert (found.equal, found.committed, found.cached) == (True, False, True)
        assert "git commit" in found.next[0]
        push(shared)
        forget(shared)
        found = status(shared)
        assert (found.present, found.cached, found.remotes) == (False, False, {"store": "yes"})
        assert found.next[0] == "bring data/ with `rlhf data pull`"

    def test_before_the_first_version(self, repository: Path, data_folder: Path) -> None:
        assert status(repository).next == ("make data/ with `rlhf data import FILE`, then commit data.dvc",)
        shutil.copytree(data_folder, repository / "data")
        assert status(repository).next == ("record data/ with `dvc add data`, then commit data.dvc",)

    def test_a_remote_that_refuses_is_no_error(self, project: Path) -> None:
        add_remote(project, "store", "ssh://127.0.0.1:9/data")
        assert "refuses: " in status(project).remotes["store"]


class TestHistory:
    def test_versions_with_their_rows(self, project: Path) -> None:
        first, second = dvc_md5(project / "data"), record(project, SECOND, "second")
        versions = history(project)
        assert [(v.md5, v.subject, v.desc) for v in versions] == [
            (second, "second", "What second is"),
            (first, "first", "What first is"),
        ]
        assert (versions[0].author, versions[0].commit) == ("tests@example.org", git(project, "rev-parse", "HEAD"))
        with stores(project) as found:
            assert count_rows(second, found) == {"demonstrations": 1, "preferences": 2, "prompts": 1}
            cached(project, dvc_md5(project / "data" / "preferences.jsonl")).unlink()
            assert count_rows(second, found) is None

    def test_commits_without_a_version_are_passed_over(self, project: Path) -> None:
        (project / "data.dvc").write_text("broken")
        git(project, "commit", "--quiet", "--all", "--message", "broken")
        git(project, "rm", "--quiet", "data.dvc")
        git(project, "commit", "--quiet", "--message", "gone")
        assert [version.subject for version in history(project)] == ["first"]

    def test_before_the_first_commit(self, repository: Path) -> None:
        assert history(repository) == []

    def test_versions_of_other_branches_are_found_by_md5(self, project: Path) -> None:
        git(project, "checkout", "--quiet", "-b", "other")
        md5 = record(project, SECOND, "second")
        git(project, "checkout", "--quiet", "-")
        assert find_version(md5[:6], project) == find_version("other", project) == md5


@pytest.fixture
def bucket(s3_bucket: str) -> str:
    return f"s3://{s3_bucket}/data"


def test_a_remote_in_s3(project: Path, bucket: str) -> None:
    import boto3

    add_remote(project, "store", bucket)
    md5 = dvc_md5(project / "data")
    assert status(project).remotes == {"store": "no"}
    assert push(project)[1] == 5
    assert push(project)[1] == 0
    assert replace(status(project), md5=None).remotes == {"store": "yes"}
    boto3.client("s3").put_object(Bucket="bucket", Key=f"data/files/md5/{md5[:2]}/{md5[2:]}", Body=b"[")
    assert push(project)[1] == 1
    forget(project)
    assert pull(project)
    assert dvc_md5(project / "data") == md5


def test_a_bucket_that_there_is_not(project: Path, bucket: str) -> None:
    add_remote(project, "store", bucket.replace("bucket", "other"))
    with pytest.raises(DataError, match=r"the remote store \(s3://other/data/files/md5\) refuses: "):
        push(project)

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import yaml
from data_rows import preference, user, write_folder, write_lines

from rlhf.config.data import DataConfig, EmbeddedName
from rlhf.data.importing.formats import import_dataset
from rlhf.data.versions import resolve as versions_resolve
from rlhf.data.versions.repository import git_commands
from rlhf.data.versions.resolve import marked, resolve, track
from rlhf.errors import DataError
from rlhf.files.hashing import dvc_md5
from rlhf.references import DataSource

OWN = DataConfig()
EMBEDDED = DataConfig(embedded="calibrated_arithmetic")
Contents = Callable[[Path], dict[str, bytes]]
DIRTY = DataConfig(allow_dirty_data=True)


@pytest.fixture
def own_repository(repository: Path, data_folder: Path) -> Path:
    """A repository whose data/ is somebody's own."""
    shutil.copytree(data_folder, repository / "data")
    track(repository)
    return repository


def change(root: Path) -> None:
    with (root / "data" / "prompts.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": user("One more")}) + "\n")


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout


class TestTrack:
    def test_adds_to_dvc_and_says_what_it_is(self, repository: Path, data_folder: Path) -> None:
        shutil.copytree(data_folder, repository / "data")
        md5 = track(repository, {"generator": "x"}, "Some data")
        content = yaml.safe_load((repository / "data.dvc").read_text())
        assert content["outs"][0]["md5"] == md5 == dvc_md5(repository / "data")
        assert content["meta"] == {"generator": "x", "md5": md5}
        assert content["desc"] == "Some data"

    def test_leaves_nothing_stale(self, repository: Path, data_folder: Path) -> None:
        shutil.copytree(data_folder, repository / "data")
        track(repository, {"generator": "x"}, "Some data")
        change(repository)
        track(repository)
        assert set(yaml.safe_load((repository / "data.dvc").read_text())) == {"outs"}

    def test_the_command_it_leads_to_records_the_version(self, own_repository: Path) -> None:
        command = git_commands("Import data").replace("git ", "git -c user.name=T -c user.email=t@example.org ")
        subprocess.run(command, shell=True, check=True, cwd=own_repository)
        assert "data.dvc" in git(own_repository, "ls-files")
        assert "data/" not in git(own_repository, "status", "--short", "--untracked-files=all")

    def test_prints_nothing_on_standard_output(self, repository: Path, data_folder: Path) -> None:
        shutil.copytree(data_folder, repository / "data")
        code = (
            "import shutil, sys; from pathlib import Path; "
            "from rlhf.config.pipeline import DataConfig; from rlhf.data.versions.resolve import resolve, track;"
            "root = Path(sys.argv[1]); track(root); shutil.rmtree(root / 'data'); resolve(DataConfig(), root)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(repository)], check=True, capture_output=True, text=True)
        assert done.stdout == ""

    def test_without_data(self, repository: Path) -> None:
        with pytest.raises(DataError, match="data: there is no such folder; make it with `rlhf data import"):
            track(repository)

    def test_without_a_dvc_repository(self, tmp_path: Path, data_folder: Path) -> None:
        shutil.copytree(data_folder, tmp_path / "data")
        with pytest.raises(DataError, match=r"this is no git repository, .* run `git init && dvc init`"):
            track(tmp_path)
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
        with pytest.raises(DataError, match=r"this is no DVC repository, .* run `dvc init`"):
            track(tmp_path)

    def test_what_dvc_refuses_is_told(self, own_repository: Path) -> None:
        (own_repository / "data.dvc").write_text("outs: nonsense\n")
        with pytest.raises(DataError, match=r"DVC cannot track the folder \(.+\); look with `rlhf data status`"):
            track(own_repository)


class TestOwnData:
    def test_is_tracked(self, own_repository: Path) -> None:
        md5 = dvc_md5(own_repository / "data")
        assert resolve(OWN, own_repository) == DataSource(path="data", md5=md5, tracked=True)

    def test_comes_from_the_cache(self, own_repository: Path) -> None:
        shutil.rmtree(own_repository / "data")
        assert resolve(OWN, own_repository).tracked
        assert (own_repository / "data" / "preferences.jsonl").is_file()

    def test_comes_from_a_remote(self, own_repository: Path, tmp_path: Path) -> None:
        from dvc.repo import Repo

        with (own_repository / ".dvc" / "config").open("a") as file:
            file.write(f"[core]\n    remote = store\n['remote \"store\"']\n    url = {tmp_path / 'store'}\n")
        with Repo(str(own_repository)) as repo:
            repo.push()
        shutil.rmtree(own_repository / "data")
        shutil.rmtree(own_repository / ".dvc" / "cache")
        assert resolve(OWN, own_repository).tracked

    def test_that_is_nowhere_is_an_error(self, own_repository: Path) -> None:
        shutil.rmtree(own_repository / "data")
        shutil.rmtree(own_repository / ".dvc" / "cache")
        with pytest.raises(DataError, match=r"cannot be had: DVC's cache .* does not have it; no remote"):
            resolve(OWN, own_repository)
        assert not (own_repository / "data").exists()

    def test_that_changed_is_refused(self, own_repository: Path) -> None:
        change(own_repository)
        with pytest.raises(DataError, match=r"data/ has changed since `dvc add`.*; record it .* --allow-dirty-data"):
            resolve(OWN, own_repository)

    def test_that_changed_is_marked_where_allowed(self, own_repository: Path) -> None:
        change(own_repository)
        found = resolve(DIRTY, own_repository)
        assert found == DataSource(path="data", md5=dvc_md5(own_repository / "data"), tracked=False, dirty=True)

    def test_is_not_dirty_just_because_that_is_allowed(self, own_repository: Path) -> None:
        assert resolve(DIRTY, own_repository).tracked

    def test_what_dvc_ignores_is_no_change(self, own_repository: Path) -> None:
        (own_repository / ".dvcignore").write_text("*.tmp\n")
        (own_repository / "data" / "x.tmp").write_text("x")
        assert resolve(OWN, own_repository).tracked

    def test_without_data_dvc(self, own_repository: Path) -> None:
        (own_repository / "data.dvc").unlink()
        with pytest.raises(DataError, match=r"data.dvc: the file is missing, .* `dvc add data`"):
            resolve(OWN, own_repository)

    @pytest.mark.parametrize("content", ["", "outs: []", "outs: [{md5: 3}]", "a: [", "outs"])
    def test_with_a_broken_data_dvc(self, own_repository: Path, content: str) -> None:
        (own_repository / "data.dvc").write_text(content)
        with pytest.raises(DataError, match=r"data.dvc: the file is not DVC's \(.*\); remove it \(`rm data.dvc`\)"):
            resolve(OWN, own_repository)

    def test_without_repositories(self, own_repository: Path) -> None:
        shutil.rmtree(own_repository / ".dvc")
        with pytest.raises(DataError, match="no DVC repository"):
            resolve(OWN, own_repository)
        shutil.rmtree(own_repository / ".git")
        with pytest.raises(DataError, match="no git repository"):
            resolve(OWN, own_repository)


class TestEmbeddedData:
    @pytest.mark.parametrize("name", get_args(EmbeddedName))
    def test_is_generated_beside_the_data(self, own_repository: Path, contents: Contents, name: EmbeddedName) -> None:
        before = contents(own_repository / "data")
        found = resolve(DataConfig(embedded=name, sampled_from="base" if name == "stories" else None), own_repository)
        md5 = dvc_md5(own_repository / "embedded" / name)
        assert found == DataSource(path=f"embedded/{name}", md5=md5, tracked=True, embedded=name)
        assert contents(own_repository / "data") == before
        assert resolve(OWN, own_repository).path == "data"

    def test_needs_no_data(self, repository: Path) -> None:
        assert resolve(EMBEDDED, repository).tracked
        assert not (repository / "data").exists()

    def test_that_was_changed_is_refused_until_it_is_removed(self, repository: Path) -> None:
        folder = repository / resolve(EMBEDDED, repository).path
        (folder / "prompts.jsonl").write_text("")
        with pytest.raises(DataError, match=r"embedded/calibrated_arithmetic: this is not .* remove the folder"):
            resolve(EMBEDDED, repository)
        shutil.rmtree(folder)
        assert resolve(EMBEDDED, repository).tracked

    def test_an_empty_folder_is_not_filled(self, repository: Path) -> None:
        folder = repository / "embedded" / "calibrated_arithmetic"
        folder.mkdir(parents=True)
        with pytest.raises(DataError, match="this is not the embedded set"):
            resolve(EMBEDDED, repository)
        assert list(folder.iterdir()) == []

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (None, r"No such file or directory.*; get it back with `git checkout HEAD -- embedded/calibrated_arith"),
            ("outs: nonsense\n", r"it has no `outs` with the md5.*; get it back with `git checkout HEAD -- embedded/"),
            (f"outs: [{{md5: {'0' * 32}.dir}}]", r"the generator of the embedded set calibrated_arithmetic makes 171f"),
        ],
    )
    def test_must_be_what_its_dvc_file_says(
        self, repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, says: str
    ) -> None:
        monkeypatch.setattr(versions_resolve, "source_root", lambda: tmp_path)
        (tmp_path / "embedded").mkdir()
        if content is not None:
            (tmp_path / "embedded" / "calibrated_arithmetic.dvc").write_text(content)
        with pytest.raises(DataError, match=says):
            resolve(EMBEDDED, repository)
        assert not (repository / "embedded" / "calibrated_arithmetic").exists()


class TestAFreshClone:
    """There data.dvc names an embedded set, which data/ holds until the first import."""

    def test_generates_what_is_missing(self, embedded_repository: Path, contents: Contents) -> None:
        before = contents(embedded_repository / "data")
        shutil.rmtree(embedded_repository / "data")
        shutil.rmtree(embedded_repository / ".dvc" / "cache")
        assert resolve(OWN, embedded_repository).tracked
        assert contents(embedded_repository / "data") == before

    def test_must_agree_with_data_dvc(self, embedded_repository: Path) -> None:
        path = embedded_repository / "data.dvc"
        md5 = dvc_md5(embedded_repository / "data")
        path.write_text(path.read_text().replace(md5, "0" * 32 + ".dir"))
        shutil.rmtree(embedded_repository / "data")
        with pytest.raises(DataError, match=rf"the generator of the embedded set .* makes {md5}, and the .dvc file"):
            resolve(OWN, embedded_repository)
        assert not (embedded_repository / "data").exists()

    def test_is_not_what_a_stale_mark_says(self, embedded_repository: Path, tmp_path: Path) -> None:
        pairs = write_lines(tmp_path / "pairs.jsonl", [preference()])
        import_dataset(str(pairs), embedded_repository / "data", replace=True)
        assert marked(embedded_repository) == "calibrated_arithmetic"
        subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "data"], cwd=embedded_repository, check=True)
        assert "generator" in (embedded_repository / "data.dvc").read_text()
        assert marked(embedded_repository) is None


class TestElsewhere:
    def test_a_folder(self, tmp_path: Path, data_folder: Path) -> None:
        found = resolve(DataConfig(path=str(data_folder)), tmp_path)
        assert found == DataSource(path=str(data_folder), md5=dvc_md5(data_folder), tracked=False)
        assert found.md5.endswith(".dir")

    def test_a_file_relative_to_the_root(self, tmp_path: Path) -> None:
        write_lines(tmp_path / "pairs.jsonl", [preference()])
        found = resolve(DataConfig(path="pairs.jsonl"), tmp_path)
        assert (found.md5, found.tracked) == (dvc_md5(tmp_path / "pairs.jsonl"), False)

    def test_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"nowhere: there is no such file or folder; set data.path"):
            resolve(DataConfig(path="nowhere"), tmp_path)

    def test_the_tracked_folder_by_another_name(self, own_repository: Path) -> None:
        assert resolve(DataConfig(path=str(own_repository / "data")), own_repository).tracked


def test_the_usual_case_does_not_import_dvc(own_repository: Path) -> None:
    code = (
        "import sys; from pathlib import Path; "
        "from rlhf.config.pipeline import DataConfig; from rlhf.data.versions.resolve import resolve;"
        "assert resolve(DataConfig(), Path(sys.argv[1])).tracked;"
        "assert not {'dvc', 'torch', 'datasets', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(own_repository)], check=True)


def test_two_at_once_make_one_folder(repository: Path) -> None:
    """Two runs on a fresh clone: neither sees half a folder of the other."""
    code = (
        "import sys; from pathlib import Path; "
        "from rlhf.config.pipeline import DataConfig; from rlhf.data.versions.resolve import resolve;"
        "assert resolve(DataConfig(embedded='calibrated_arithmetic'), Path(sys.argv[1])).tracked"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, str(repository)]) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    assert sorted(path.name for path in (repository / "embedded" / "calibrated_arithmetic").iterdir()) == [
        "datasheet.md",
        "demonstrations.jsonl",
        "evaluation",
        "preferences.jsonl",
        "prompts.jsonl",
    ]


def test_another_run_was_faster(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other run's folder appears between the look and the rename."""
    rename = Path.rename

    def rename_late(self: Path, target: Path) -> Path:
        shutil.copytree(self, target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_late)
    assert resolve(EMBEDDED, repository).tracked
    assert [path.name for path in (repository / "embedded").iterdir()] == ["calibrated_arithmetic"]


def test_other_data_in_the_way_of_a_fresh_clone(repository: Path, data_folder: Path) -> None:
    write_folder(repository / "data", {kind: [preference()] for kind in ("demonstrations", "preferences", "prompts")})
    with pytest.raises(DataError, match="data/ is not tracked"):
        resolve(OWN, repository)

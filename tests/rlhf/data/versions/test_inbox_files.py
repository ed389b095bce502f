"""New data out of an inbox and out of a git branch, in a real git and DVC repository."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from data_rows import demonstration, preference, user, write_folder, write_lines

from rlhf.config.data import DataConfig
from rlhf.data.versions.inbox import check_out_branch, import_inbox
from rlhf.data.versions.resolve import resolve, track
from rlhf.data.versions.transaction import writing
from rlhf.errors import ConfigError, DataError
from rlhf.files.hashing import dvc_md5

OLD = preference("What is 1 + 1 ?")
NEW = preference("What is 2 + 2 ?", "4", "5")
NEWER = preference("What is 3 + 3 ?", "6", "7")


@pytest.fixture
def project(repository: Path) -> Path:
    """A repository with data of one row a kind, tracked and committed, and an empty inbox."""
    rows = {"demonstrations": [demonstration()], "preferences": [OLD], "prompts": [{"prompt": user("Hi")}]}
    write_folder(repository / "data", rows)
    track(repository)
    (repository / ".gitignore").write_text("/data\n/inbox\n/.rlhf\n")
    commit(repository, "data")
    (repository / "inbox").mkdir()
    return repository


def commit(repository: Path, message: str) -> None:
    who = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "add", "--all"], cwd=repository, check=True)
    subprocess.run(["git", *who, "commit", "-q", "-m", message], cwd=repository, check=True)


def preferences(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "preferences.jsonl").read_text().splitlines()]


def without_source(row: dict) -> dict:
    return {key: value for key, value in row.items() if key != "source"}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestInbox:
    def test_rows_of_all_files_are_added_and_tracked(self, project: Path) -> None:
        before = {path.name: path.read_bytes() for path in (project / "data").iterdir()}
        write_lines(project / "inbox" / "a.jsonl", [NEW, OLD])
        pair = {"prompt": "What is 3 + 3 ?", "chosen": "6", "rejected": "7"}
        write_lines(project / "inbox" / "b.jsonl", [pair, NEW])
        assert import_inbox("inbox", project) == 2
        assert [without_source(row) for row in preferences(project / "data")] == [OLD, NEW, NEWER]
        for name in ("demonstrations.jsonl", "prompts.jsonl"):
            assert (project / "data" / name).read_bytes() == before[name]
        sheet = (project / "data" / "datasheet.md").read_text()
        assert sheet.startswith(before["datasheet.md"].decode())
        assert "- a.jsonl, sha256 " in sheet
        assert "1 preferences added; 1 there already\n- b.jsonl" in sheet
        source = resolve(DataConfig(), project)
        assert (source.dirty, source.md5) == (False, dvc_md5(project / "data"))
        assert names(project / "inbox") == ["imported"]
        assert names(project / "inbox" / "imported") == ["a.jsonl", "b.jsonl"]

    def test_an_empty_inbox_changes_nothing(self, project: Path, contents) -> None:
        (project / "inbox" / ".half-written.jsonl").write_text("{")
        before = contents(project)
        assert import_inbox("inbox", project) == 0
        assert contents(project) == before

    def test_one_bad_file_and_nothing_is_imported(self, project: Path, contents) -> None:
        write_lines(project / "inbox" / "a.jsonl", [NEW])
        write_lines(project / "inbox" / "b.jsonl", [NEWER, {**NEW, "chosen": 4}])
        before = contents(project)
        with pytest.raises(DataError, match=r"b\.jsonl: 1 of 2 rows .*: lines 2; correct the file"):
            import_inbox("inbox", project)
        assert contents(project) == before

    def test_rows_without_a_preference_are_counted_in_the_datasheet(self, project: Path) -> None:
        write_lines(project / "inbox" / "a.jsonl", [NEW, {**NEWER, "rejected": NEWER["chosen"]}])
        assert import_inbox("inbox", project) == 1
        assert "1 preferences added; 1 left out, because " in (project / "data" / "datasheet.md").read_text()

    def test_only_known_rows_make_no_new_version(self, project: Path) -> None:
        before = (project / "data.dvc").read_bytes()
        write_lines(project / "inbox" / "a.jsonl", [OLD])
        assert import_inbox("inbox", project) == 0
        assert (project / "data.dvc").read_bytes() == before
        assert names(project / "inbox" / "imported") == ["a.jsonl"]

    def test_cut_off_before_the_tracking_it_goes_on(self, project: Path) -> None:
        write_lines(project / "inbox" / "a.jsonl", [NEW])
        dvc_file = (project / "data.dvc").read_bytes()
        import_inbox("inbox", project)
        # As a kill between the two steps leaves it.
        (project / "data.dvc").write_bytes(dvc_file)
        (project / "inbox" / "imported" / "a.jsonl").rename(project / "inbox" / "a.jsonl")
        assert import_inbox("inbox", project) == 0
        assert not resolve(DataConfig(), project).dirty
        assert names(project / "inbox" / "imported") == ["a.jsonl"]

    def test_data_that_was_changed_by_hand_is_not_tracked_with_it(self, project: Path) -> None:
        write_lines(project / "data" / "preferences.jsonl", [OLD, NEWER])
        write_lines(project / "inbox" / "a.jsonl", [NEW])
        with pytest.raises(DataError, match=r"data/ has changed since `dvc add`"):
            import_inbox("inbox", project)
        assert len(preferences(project / "data")) == 2

    def test_data_that_is_not_here_is_brought_first(self, project: Path) -> None:
        shutil.rmtree(project / "data")
        write_lines(project / "inbox" / "a.jsonl", [NEW])
        assert import_inbox("inbox", project) == 1
        assert len(preferences(project / "data")) == 2

    def test_data_that_lacks_a_file(self, project: Path) -> None:
        (project / "data" / "datasheet.md").unlink()
        track(project)
        write_lines(project / "inbox" / "a.jsonl", [NEW])
        with pytest.raises(DataError, match=r"data/datasheet\.md: the file is missing"):
            import_inbox("inbox", project)
        assert names(project / "inbox") == ["a.jsonl"]

    def test_two_at_once(self, project: Path) -> None:
        """The one that waits finds the inbox as the other leaves it."""
        write_lines(project / "inbox" / "a.jsonl", [NEW])
        code = (
            "import sys; from pathlib import Path; from rlhf.data.versions.inbox import import_inbox; "
            "print(import_inbox('inbox', Path(sys.argv[1])))"
        )
        command = [sys.executable, "-c", code, str(project)]
        with writing(project):
            waiting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert waiting.stderr is not None
            assert "another process writes" in waiting.stderr.readline()
            assert import_inbox("inbox", project) == 1
            write_lines(project / "inbox" / "b.jsonl", [NEWER])
        out, errors = waiting.communicate()
        assert (out, waiting.returncode) == ("1\n", 0), errors
        assert len(preferences(project / "data")) == 3
        assert names(project / "inbox" / "imported") == ["a.jsonl", "b.jsonl"]

    def test_files_of_one_name_are_kept_apart(self, project: Path) -> None:
        for row in (NEW, NEWER):
            write_lines(project / "inbox" / "a.jsonl", [row])
            import_inbox("inbox", project)
        assert len(names(project / "inbox" / "imported")) == 2

    @pytest.mark.parametrize("inbox", ["..", ".", "/etc", "inbox/../.."])
    def test_a_folder_that_is_not_below_the_root(self, project: Path, inbox: str) -> None:
        with pytest.raises(ConfigError, match="is not a folder below"):
            import_inbox(inbox, project)

    def test_no_such_folder(self, project: Path) -> None:
        with pytest.raises(DataError, match="there is no such folder; make it"):
            import_inbox("post", project)


class TestBranch:
    @pytest.fixture
    def branched(self, project: Path) -> Path:
        """The branch `feedback` has a second version of the data."""
        first = (project / "data.dvc").read_bytes()
        subprocess.run(["git", "checkout", "-q", "-b", "feedback"], cwd=project, check=True)
        write_lines(project / "data" / "preferences.jsonl", [OLD, NEW])
        track(project)
        commit(project, "more")
        subprocess.run(["git", "checkout", "-q", "-"], cwd=project, check=True)
        write_lines(project / "data" / "preferences.jsonl", [OLD])
        assert (project / "data.dvc").read_bytes() == first
        return project

    def test_its_data_comes_into_a_folder_of_its_own(self, branched: Path, contents) -> None:
        tree = contents(branched / "data")
        folder = branched / check_out_branch("feedback", branched)
        assert preferences(folder) == [OLD, NEW]
        assert dvc_md5(folder) == f"{folder.name}.dir"
        assert folder.is_relative_to(branched / ".rlhf")
        assert contents(branched / "data") == tree
        status = subprocess.run(["git", "status", "--porcelain"], cwd=branched, capture_output=True, check=True)
        assert status.stdout == b""
        # What lies there is checked, not trusted.
        (folder / "preferences.jsonl").write_text("")
        assert check_out_branch("feedback", branched) == folder.relative_to(branched).as_posix()
        assert preferences(folder) == [OLD, NEW]

    def test_no_such_branch(self, project: Path) -> None:
        with pytest.raises(DataError, match=r"data\.dvc at the git revision nowhere cannot be read"):
            check_out_branch("nowhere", project)

    def test_data_that_is_nowhere(self, branched: Path) -> None:
        shutil.rmtree(branched / ".dvc" / "cache")
        with pytest.raises(DataError, match="cannot be had: DVC's cache"):
            check_out_branch("feedback", branched)
        assert not list((branched / ".rlhf" / "data").iterdir())

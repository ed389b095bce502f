"""Two writers of data/, and writers that are killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from data_rows import preference, user, write_folder, write_lines

from rlhf.config.data import DataConfig
from rlhf.data.versions.append import Addition, add_version
from rlhf.data.versions.remotes import pull
from rlhf.data.versions.resolve import resolve, track
from rlhf.data.versions.transaction import new_version, publish, writing
from rlhf.errors import DataError
from rlhf.files.hashing import dvc_md5

# A writer that stops for ever where it is told to, and says that it is there.
WRITER = """
import sys, time
from pathlib import Path
from rlhf.data.versions import transaction
from rlhf.files import atomic
from rlhf.data.versions.append import Addition, add_version

def stop(*arguments, **named):
    print("there", flush=True)
    time.sleep(600)

def after(function):
    def call(*arguments, **named):
        function(*arguments, **named)
        stop()
    return call

moment, root, path = sys.argv[1:]
if moment == "filling":
    transaction.publish = stop
    import rlhf.data.versions.append
    rlhf.data.versions.append.publish = stop
elif moment == "between the renames":
    transaction.put_in_place = lambda filled, destination: (
        destination.rename(atomic.replaced_beside(filled)), stop())
elif moment == "before the tracking":
    transaction.put_in_place = after(atomic.put_in_place)
elif moment == "after the tracking":
    transaction.track = after(transaction.track)
add_version(Path(root), [Addition(path)])
"""
MOMENTS = ["filling", "between the renames", "before the tracking", "after the tracking"]


@pytest.fixture
def project(repository: Path, data_folder: Path) -> Path:
    shutil.copytree(data_folder, repository / "data")
    track(repository)
    return repository


def rows(project: Path) -> list[str]:
    lines = (project / "data" / "preferences.jsonl").read_text().splitlines()
    return [json.loads(line)["prompt"][0]["content"] for line in lines]


def leftovers(project: Path) -> list[Path]:
    return list(project.glob(".rlhf-new-data-*"))


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_writer_that_is_killed(project: Path, tmp_path: Path, moment: str) -> None:
    """Afterwards data/ is the old version or the new one, and data.dvc says which."""
    before = dvc_md5(project / "data")
    path = write_lines(tmp_path / "more.jsonl", [preference("What is 2 + 2 ?", "4")])
    command = [sys.executable, "-c", WRITER, moment, str(project), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"there\n"
        os.kill(writer.pid, signal.SIGKILL)
    assert leftovers(project)
    found = resolve(DataConfig(), project)
    assert found.tracked
    assert found.md5 == dvc_md5(project / "data")
    assert (found.md5 == before) == (moment == "filling")
    added = add_version(project, [Addition(str(path))])
    assert (added.version is None) == (moment != "filling")
    assert rows(project) == ["What is 1 + 1 ?", "What is 2 + 2 ?"]
    assert resolve(DataConfig(), project).tracked
    assert not leftovers(project)


def test_a_pull_after_a_kill_keeps_the_version_that_was_begun(project: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "more.jsonl", [preference("What is 2 + 2 ?", "4")])
    command = [sys.executable, "-c", WRITER, "before the tracking", str(project), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
    assert not pull(project)
    assert resolve(DataConfig(), project).tracked
    assert len(rows(project)) == 2


def test_what_a_person_put_beside_data_stays(project: Path) -> None:
    backup = write_lines(project / ".data-backup" / "prompts.jsonl", [{"prompt": user("Kept")}])
    with writing(project):
        pass
    assert "Kept" in backup.read_text()


def test_data_that_lacks_a_file_gets_nothing_added(project: Path, tmp_path: Path) -> None:
    (project / "data" / "datasheet.md").unlink()
    track(project)
    path = write_lines(tmp_path / "more.jsonl", [preference("What is 2 + 2 ?", "4")])
    with pytest.raises(DataError, match=r"repository/data/datasheet\.md: the file is missing"):
        add_version(project, [Addition(str(path))])
    assert rows(project) == ["What is 1 + 1 ?"]


def test_two_at_once_one_waits_and_nothing_is_lost(project: Path, tmp_path: Path) -> None:
    paths = [write_lines(tmp_path / f"{n}.jsonl", [preference(f"What is {n} ?", "x")]) for n in range(2)]
    command = [sys.executable, "-c", WRITER, "at no moment", str(project)]
    writers = [subprocess.Popen([*command, str(path)]) for path in paths]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert sorted(rows(project)) == ["What is 0 ?", "What is 1 + 1 ?", "What is 1 ?"]
    assert resolve(DataConfig(), project).tracked
    assert (project / "data" / "datasheet.md").read_text().count("## Added") == 2


def test_the_one_that_waits_says_so(project: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "more.jsonl", [preference("What is 2 + 2 ?", "4")])
    command = [sys.executable, "-c", WRITER, "at no moment", str(project), str(path)]
    with writing(project):
        writer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert writer.stderr is not None
        assert "another process writes" in writer.stderr.readline()
        time.sleep(0.2)
        assert writer.poll() is None
        assert rows(project) == ["What is 1 + 1 ?"]
    writer.communicate()
    assert writer.returncode == 0
    assert len(rows(project)) == 2


def test_what_dvc_refuses_changes_nothing(project: Path, contents, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(project)

    def refuse(*arguments: object) -> str:
        # As far as `dvc add` comes before an error.
        (project / "data.dvc").write_text("half")
        raise DataError("DVC refuses")

    monkeypatch.setattr("rlhf.data.versions.transaction.track", refuse)
    with new_version(project) as filled:
        kinds = ("demonstrations", "preferences", "prompts")
        write_folder(filled, {kind: [{"prompt": user("Hi")}] for kind in kinds})
        with pytest.raises(DataError, match="DVC refuses"):
            publish(filled, project, replace=True)
    assert contents(project) == before


def test_changes_of_a_person_after_the_kill_are_kept(project: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "more.jsonl", [preference("What is 2 + 2 ?", "4")])
    command = [sys.executable, "-c", WRITER, "before the tracking", str(project), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
    write_lines(project / "data" / "prompts.jsonl", [{"prompt": user("By hand")}])
    with pytest.raises(DataError, match="data/ has changed since `dvc add`"):
        resolve(DataConfig(), project)
    assert "By hand" in (project / "data" / "prompts.jsonl").read_text()
    assert len(rows(project)) == 2

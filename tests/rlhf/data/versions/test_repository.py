"""data/ and data.dvc in states that DVC cannot work with: each is told for what it is, with the command that helps."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from data_rows import preference, write_lines

from rlhf.cli.main import main
from rlhf.config.data import DataConfig
from rlhf.data.versions.append import import_version
from rlhf.data.versions.remotes import status
from rlhf.data.versions.resolve import check, resolve
from rlhf.errors import DataError, InputError
from rlhf.files.hashing import dvc_md5
from rlhf.files.manifest import folder_manifest

ALL = (["status"], ["log"], ["diff", "HEAD"], ["push"], ["pull"], ["add", "{rows}"], ["import", "{rows}", "--replace"])
RECIPE = DataConfig()


def git(root: Path, *arguments: str, ok: bool = True) -> None:
    author = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", *author, *arguments], cwd=root, check=ok, capture_output=True)


def run_shown(message: str, number: int, root: Path) -> None:
    """Run a command that a message shows between backquotes."""
    author = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(message.split("`")[2 * number + 1], cwd=root, shell=True, check=True, env=os.environ | author)


@pytest.fixture
def project(embedded_repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a commit."""
    monkeypatch.setenv("RLHF_ROOT", str(embedded_repository))
    monkeypatch.chdir(embedded_repository)
    git(embedded_repository, "add", "--all")
    git(embedded_repository, "commit", "--quiet", "--message", "The data")
    return embedded_repository


@pytest.fixture
def refused_by_all(
    project: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    contents: Callable[[Path], dict[str, bytes]],
) -> Callable[..., str]:
    """Give every command of `rlhf data`, and what a run asks; all must refuse with one message, and change nothing."""
    rows = write_lines(tmp_path / "rows.jsonl", [preference()])

    def give(*, but: tuple[str, ...] = ()) -> str:
        before, link = contents(project), (project / "data").is_symlink()
        with pytest.raises(DataError) as asked:
            check(RECIPE, project)
        with pytest.raises(DataError, match=r"^" if but else str(asked.value).split(":")[0]):
            resolve(RECIPE, project)
        for arguments in ALL:
            if arguments[0] in but:
                continue
            assert main(["data", *(one.replace("{rows}", str(rows)) for one in arguments)]) == 2, arguments
            shown = capsys.readouterr()
            assert (shown.out, shown.err) == ("", f"rlhf: error: {asked.value}\n"), arguments
        after = contents(project)
        assert {name: text for name, text in after.items() if not name.startswith(".dvc/tmp")} == {
            name: text for name, text in before.items() if not name.startswith(".dvc/tmp")
        }
        assert (project / "data").is_symlink() == link
        return str(asked.value)

    return give


def test_a_link(project: Path, refused_by_all: Callable[..., str]):
    (project / "data").rename(project / "real")
    (project / "data").symlink_to("real")
    message = refused_by_all()
    assert "data: this is a link to real, and DVC tracks folders, not links" in message
    run_shown(message, 0, project)
    assert resolve(RECIPE, project).tracked


def test_a_link_that_leads_nowhere(project: Path, refused_by_all: Callable[..., str]):
    (project / "data").rename(project / "real")
    (project / "data").symlink_to("elsewhere")
    message = refused_by_all()
    assert "data: this is a link to elsewhere, and there is nothing" in message
    run_shown(message, 0, project)
    assert main(["data", "pull"]) == 0


def test_a_file(project: Path, refused_by_all: Callable[..., str]):
    (project / "data").rename(project / "real")
    (project / "data").write_text("x")
    assert "data: this is a file, and a folder is to be there; move it away" in refused_by_all()


def test_git_tracks_it_too(project: Path, tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]):
    git(project, "add", "--force", "data")
    git(project, "commit", "--quiet", "--message", "By mistake")
    assert resolve(RECIPE, project).tracked
    before = contents(project / "data")
    with pytest.raises(DataError, match=r"data: git tracks this folder \(6 files, such as data/") as error:
        import_version(project, str(write_lines(tmp_path / "rows.jsonl", [preference()])), replace=True)
    with pytest.raises(DataError, match="git tracks this folder"):
        status(project)
    assert contents(project / "data") == before
    run_shown(str(error.value), 0, project)
    assert contents(project / "data") == before
    assert status(project).equal


def test_git_tracks_it_alone(project: Path):
    git(project, "add", "--force", "data")
    git(project, "rm", "--quiet", "data.dvc")
    with pytest.raises(DataError, match="git tracks this folder"):
        check(RECIPE, project)


@pytest.fixture
def conflict(project: Path) -> tuple[str, str]:
    """Two branches that recorded other data, and a merge of them. Returns the two versions."""
    path = project / "data.dvc"
    md5 = dvc_md5(project / "data")
    ours, theirs = "b" * 32 + ".dir", "a" * 32 + ".dir"
    git(project, "checkout", "-q", "-b", "other")
    path.write_text(path.read_text().replace(md5, theirs))
    git(project, "commit", "--quiet", "--all", "--message", "theirs")
    git(project, "checkout", "-q", "-")
    path.write_text(path.read_text().replace(md5, ours))
    git(project, "commit", "--quiet", "--all", "--message", "ours")
    git(project, "merge", "other", ok=False)
    assert "<<<<<<<" in path.read_text()
    return ours, theirs


def test_a_conflict(project: Path, conflict: tuple[str, str], refused_by_all: Callable[..., str]):
    message = refused_by_all(but=("log", "diff"))
    versions = ", ".join(conflict)
    assert f"the file holds git's conflict markers: two branches recorded different versions ({versions})" in message
    run_shown(message, 1, project)
    run_shown(message, 2, project)
    assert status(project).md5 == conflict[1]


def test_a_conflict_that_was_committed(project: Path, conflict: tuple[str, str]):
    git(project, "commit", "--quiet", "--all", "--message", "Markers and all")
    with pytest.raises(DataError, match=r"conflict markers: .*`git checkout COMMIT -- data.dvc`"):
        check(RECIPE, project)


@pytest.mark.parametrize("text", ["", "outs: []", "- 1", "a: [", "outs: [{md5: 3}]", "\xff"])
def test_a_data_dvc_that_is_none(project: Path, text: str, refused_by_all: Callable[..., str]):
    (project / "data.dvc").write_bytes(text.encode("latin-1"))
    message = refused_by_all(but=("log", "diff"))
    assert "data.dvc: the file is not DVC's (" in message
    run_shown(message, message.count("`") // 2 - 1, project)
    assert resolve(RECIPE, project).tracked


def test_a_data_dvc_that_is_a_folder(project: Path, refused_by_all: Callable[..., str]):
    (project / "data.dvc").unlink()
    (project / "data.dvc").mkdir()
    assert "data.dvc: this is no file; move it away" in refused_by_all(but=("log", "diff", "status"))


@pytest.mark.parametrize("manifest", [dvc_md5, folder_manifest])
def test_a_name_that_is_no_text(data_folder: Path, manifest: Callable[[Path], str]):
    Path(os.fsdecode(os.fsencode(data_folder) + b"/caf\xe9")).touch()
    with pytest.raises(InputError, match=r"caf\\xe9, in .*given: the name is not UTF-8; rename it"):
        manifest(data_folder)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "{}"],
        ["run", "x.yaml", "--model.base", "{}"],
        ["run", "x.yaml", "--data.path={}"],
        ["data", "import", "{}"],
        ["data", "validate", "{}"],
        ["verify", "{}"],
        ["compare", "a", "{}"],
    ],
)
def test_an_argument_that_is_no_text(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    name = os.fsdecode(b"caf\xe9.jsonl")
    assert main([one.format(name) for one in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("caf\\xe9.jsonl, on the command line: the name is not UTF-8; rename it (`ls -b` shows it)")


def test_a_project_whose_name_is_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("RLHF_ROOT", str(tmp_path / os.fsdecode(b"caf\xe9")))
    assert main(["runs"]) == 2
    assert "caf\\xe9, the project's folder: the name is not UTF-8" in capsys.readouterr().err


def test_the_printed_command_takes_any_name(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = write_lines(tmp_path / "Ann's $HOME rows.jsonl", [preference()])
    assert main(["data", "import", str(rows), "--replace"]) == 0
    shown = capsys.readouterr().out.splitlines()[-1].removeprefix("To record this version: ")
    run_shown(f"`{shown}`", 0, project)
    log = subprocess.run(["git", "log", "-1", "--format=%s"], cwd=project, capture_output=True, text=True, check=True)
    assert log.stdout == "Import Ann's $HOME rows.jsonl\n"

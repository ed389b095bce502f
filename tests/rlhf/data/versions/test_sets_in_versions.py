"""Evaluation sets in versions of data/: added, compared, counted and brought back."""

import shutil
from pathlib import Path

import pytest
from data_rows import demonstration, preference, user, write_folder, write_lines
from versioned import git

from rlhf.cli.main import main
from rlhf.data.evaluation_sets import read_set
from rlhf.data.versions.append import Addition, add_version
from rlhf.data.versions.diff import compare_versions
from rlhf.data.versions.history import count_rows, find_version
from rlhf.data.versions.resolve import check_out, track
from rlhf.data.versions.stores import stores

SAFE = [{"prompt": f"How do I open {n} ?", "kind": "safe"} for n in range(3)]


@pytest.fixture
def project(repository: Path) -> Path:
    rows = {"demonstrations": [demonstration()], "preferences": [preference()], "prompts": [{"prompt": user("Hi")}]}
    write_folder(repository / "data", rows)
    track(repository)
    git(repository, "add", "data.dvc", ".gitignore")
    git(repository, "commit", "--quiet", "--message", "first")
    return repository


def test_a_set_is_added_once_and_comes_back(project: Path, tmp_path: Path) -> None:
    addition = Addition(str(write_lines(tmp_path / "doors.jsonl", SAFE)), "evaluation/doors")
    added = add_version(project, [addition])
    assert added.counts == {"evaluation/doors": 3}
    assert "3 evaluation/doors added" in (project / "data" / "datasheet.md").read_text()
    assert add_version(project, [addition]).version is None
    difference = compare_versions(project, "HEAD")
    assert difference.as_json()["evaluation_sets"] == {"evaluation/doors.jsonl": "added"}
    assert "| evaluation/doors.jsonl | added |" in difference.as_markdown()
    git(project, "commit", "--quiet", "--all", "--message", "second")
    assert compare_versions(project, "HEAD").sets == {}
    with stores(project) as dvc:
        assert count_rows(find_version("HEAD", project), dvc)["evaluation/doors"] == 3  # type: ignore[index]
    shutil.rmtree(project / "data")
    check_out(find_version("HEAD", project), project / "data", project)
    assert [row for _, row in read_set(project / "data" / "evaluation" / "doors.jsonl")] == [
        row | {"prompt": user(str(row["prompt"]))} for row in SAFE
    ]


def test_by_the_command_line(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLHF_ROOT", str(project))
    path = write_lines(tmp_path / "doors.jsonl", SAFE)
    assert main(["data", "add", "--evaluation", str(path), "--evaluation", f"again={path}"]) == 0
    assert sorted(file.name for file in (project / "data" / "evaluation").iterdir()) == ["again.jsonl", "doors.jsonl"]
    assert main(["data", "validate"]) == 0
    assert "evaluation/again.jsonl: 3 rows, all as they should be" in capsys.readouterr().out
    assert main(["data", "add", "--evaluation", str(path), "--evaluation", f"doors={path}"]) == 2
    assert "two sets are called doors" in capsys.readouterr().err
    assert main(["data", "add", "--evaluation", f"a/b={path}"]) == 2
    assert "cannot be the name of an evaluation set" in capsys.readouterr().err

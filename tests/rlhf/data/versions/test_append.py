"""Rounds of feedback in data/: what is there of a round is what it says now."""

from pathlib import Path

import pytest
from data_rows import demonstration, preference, user, write_folder

from rlhf.data.schema import read_rows
from rlhf.data.versions.append import replace_round
from rlhf.data.versions.history import md5_in
from rlhf.data.versions.repository import read_dvc_file
from rlhf.data.versions.resolve import track
from rlhf.errors import DataError

OLD = preference("What is 1 + 1 ?")


def of_round(name: str, answer: str) -> dict[str, object]:
    return preference("What is 2 + 2 ?", answer, "none") | {"round": name, "annotator": "ann"}


@pytest.fixture
def project(repository: Path) -> Path:
    rows = {"demonstrations": [demonstration()], "preferences": [OLD], "prompts": [{"prompt": user("Hi")}]}
    write_folder(repository / "data", rows, datasheet="# Data sheet\n\n## Earlier\n\nwords\n")
    track(repository)
    return repository


def rows(project: Path) -> list[dict[str, object]]:
    return [row for _, row in read_rows(project / "data" / "preferences.jsonl", "preferences")]


def test_a_round_collected_again_replaces_itself_and_nothing_else(project: Path):
    first = replace_round(project, "a", [of_round("a", "4"), of_round("a", "5")], "Two rows.")
    assert first is not None
    assert rows(project) == [OLD, of_round("a", "4"), of_round("a", "5")]
    assert replace_round(project, "a", [of_round("a", "4"), of_round("a", "5")], "Two rows.") is None
    replace_round(project, "b", [of_round("b", "6")], "One row of b.")
    last = replace_round(project, "a", [of_round("a", "4")], "One row.\n\n### Within\n\nmore")
    assert last is not None
    assert rows(project) == [OLD, of_round("b", "6"), of_round("a", "4")]
    sheet = (project / "data" / "datasheet.md").read_text()
    assert sheet == (
        "# Data sheet\n\n## Earlier\n\nwords\n\n## Round a\n\nOne row.\n\n### Within\n\nmore\n\n"
        "## Round b\n\nOne row of b.\n"
    )
    dvc_file = read_dvc_file(project)
    assert md5_in(dvc_file) == last.md5
    assert dvc_file["outs"][0].get("desc") == "Round a: 1 preferences" or "Round a: 1 preferences" in str(dvc_file)
    gone = replace_round(project, "a", [], "Nothing.")
    assert gone is not None
    assert rows(project) == [OLD, of_round("b", "6")]


def test_data_that_was_changed_by_hand_is_left_alone(project: Path):
    (project / "data" / "prompts.jsonl").write_text('{"prompt": [{"role": "user", "content": "Changed"}]}\n')
    with pytest.raises(DataError, match=r"data.*differs from data\.dvc"):
        replace_round(project, "a", [of_round("a", "4")], "One row.")
    assert rows(project) == [OLD]

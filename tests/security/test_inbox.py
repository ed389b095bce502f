"""An inbox is a folder that others write to: what is imported is a file of its own, and goes nowhere else."""

import logging
import os
from pathlib import Path

import pytest
from outside import preference, write_lines

from rlhf.data.versions.inbox import import_inbox
from rlhf.errors import DataError


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "elsewhere" / "secret.jsonl", [preference(7)])


class TestLinks:
    """A link in the inbox was followed, and a file from anywhere became training data."""

    def test_a_link_is_not_read_and_that_is_said(
        self, project: Path, elsewhere: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (project / "inbox" / "link.jsonl").symlink_to(elsewhere)
        write_lines(project / "inbox" / "own.jsonl", [preference(8)])
        with caplog.at_level(logging.WARNING):
            assert import_inbox("inbox", project) == 1
        assert f"link.jsonl is a link to {elsewhere}, and was not imported; put the file itself there" in caplog.text
        assert "7 + 7" not in (project / "data" / "preferences.jsonl").read_text()
        assert (project / "inbox" / "link.jsonl").is_symlink()
        assert (project / "inbox" / "imported" / "own.jsonl").is_file()

    def test_nothing_but_links(self, project: Path, elsewhere: Path) -> None:
        (project / "inbox" / "link.jsonl").symlink_to(elsewhere)
        (project / "inbox" / "dangling.jsonl").symlink_to("nowhere.jsonl")
        before = (project / "data.dvc").read_bytes()
        assert import_inbox("inbox", project) == 0
        assert (project / "data.dvc").read_bytes() == before

    def test_a_pipe(self, project: Path, caplog: pytest.LogCaptureFixture) -> None:
        os.mkfifo(project / "inbox" / "pipe.jsonl")
        with caplog.at_level(logging.WARNING):
            assert import_inbox("inbox", project) == 0
        assert "pipe.jsonl is no regular file, and was not imported" in caplog.text


class TestImported:
    """Where `imported` was a link, files were moved out of the project."""

    def test_a_link_is_refused_before_anything_is_read(self, project: Path, elsewhere: Path) -> None:
        (project / "inbox" / "imported").symlink_to(elsewhere.parent)
        write_lines(project / "inbox" / "own.jsonl", [preference(8)])
        before = (project / "data" / "preferences.jsonl").read_bytes()
        with pytest.raises(DataError, match=r"inbox/imported: this is a link to .*elsewhere, and imported files move"):
            import_inbox("inbox", project)
        assert [path.name for path in elsewhere.parent.iterdir()] == ["secret.jsonl"]
        assert (project / "data" / "preferences.jsonl").read_bytes() == before
        assert (project / "inbox" / "own.jsonl").is_file()

    def test_a_file_is_refused_too(self, project: Path) -> None:
        (project / "inbox" / "imported").write_text("")
        with pytest.raises(DataError, match=r"inbox/imported: this is a file, and imported files move"):
            import_inbox("inbox", project)

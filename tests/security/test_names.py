"""Names from outside: of files, that stand in documents, and of branches and folders, that are given to programs."""

from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from outside import preference, write_lines

from rlhf.cli.main import main
from rlhf.config.data import DataConfig
from rlhf.config.retrain import RetrainConfig
from rlhf.data.importing.formats import import_dataset
from rlhf.data.versions.append import Addition, add_version
from rlhf.data.versions.history import find_version, md5_at
from rlhf.data.versions.inbox import check_out_branch, import_inbox
from rlhf.data.versions.repository import read_dvc_file
from rlhf.errors import InputError
from rlhf.model_card.card import _licence
from rlhf.text.markdown import as_code

HOSTILE = "a\n\n## Licence\nMIT <img src=x> ![p](http:||x.png) `b`.jsonl"


def headings_of(sheet: str) -> list[str]:
    tokens = MarkdownIt("commonmark").parse(sheet)
    return [inline.content for start, inline in pairwise(tokens) if start.type == "heading_open"]


def kinds_of(sheet: str) -> set[str]:
    tokens = MarkdownIt("commonmark").parse(sheet)
    return {token.type for token in tokens} | {
        child.type for token in tokens for child in token.children or () if token.type == "inline"
    }


class TestNamesInDatasheets:
    """A file name with line ends wrote a heading `Licence` into the datasheet, before the true one."""

    def test_of_an_import(self, tmp_path: Path) -> None:
        given = write_lines(tmp_path / HOSTILE, [preference(1), preference(2)])
        import_dataset(str(given), tmp_path / "data", licence="CC0")
        sheet = (tmp_path / "data" / "datasheet.md").read_text()
        assert [heading for heading in headings_of(sheet) if "icence" in heading] == ["Licence"]
        assert not kinds_of(sheet) & {"html_inline", "html_block", "image", "code_inline", "link_open"}
        assert _licence(sheet) == "CC0"

    def test_of_what_is_left_out(self, tmp_path: Path) -> None:
        unknown = {**preference(2), "## Licence\nMIT": 1, "<b>": "![x](y)"}
        rows = [preference(number) for number in range(40)]
        given = write_lines(tmp_path / "a.jsonl", [*rows, unknown])
        with given.open("a") as file:
            file.write('{"prompt": 1, "prompt\\n\\n## Licence": 2, "prompt\\n\\n## Licence": 3}\n')
        import_dataset(str(given), tmp_path / "data", licence="CC0")
        sheet = (tmp_path / "data" / "datasheet.md").read_text()
        assert [heading for heading in headings_of(sheet) if "icence" in heading] == ["Licence"]
        assert not kinds_of(sheet) & {"html_inline", "html_block", "image", "link_open"}

    @pytest.mark.parametrize("way", ["add", "inbox"])
    def test_of_feedback(self, project: Path, tmp_path: Path, way: str) -> None:
        before = headings_of((project / "data" / "datasheet.md").read_text())
        if way == "inbox":
            write_lines(project / "inbox" / HOSTILE, [preference(9)])
            import_inbox("inbox", project)
        else:
            given = write_lines(tmp_path / HOSTILE, [preference(9)])
            add_version(project, [Addition(str(given))])
        sheet = (project / "data" / "datasheet.md").read_text()
        assert headings_of(sheet)[:-1] == before
        assert headings_of(sheet)[-1].startswith("Added 20")
        assert not kinds_of(sheet) & {"html_inline", "html_block", "image", "code_inline", "link_open"}
        assert _licence(sheet) == "CC0"
        assert "\n" not in read_dvc_file(project)["desc"]


class TestTheLicenceInTheCard:
    """The card took the first heading of that name, whoever had written it."""

    def test_several_are_all_told(self) -> None:
        sheet = "# A\n## Guidelines\n# Licence\nMIT\n## Licence\nCC0\n\nAnd more.\n## Other\nx\n"
        assert _licence(sheet) == "MIT\n\nUnder another heading of that name it says: CC0\n\nAnd more."

    def test_in_code_it_is_no_heading(self) -> None:
        assert _licence("```\n# Licence\nMIT\n```\n# License: \nCC0\n") == "CC0"
        assert _licence("# A\n") is None

    def test_names_in_code(self) -> None:
        assert as_code("data/my_set") == "`data/my_set`"
        assert as_code("a`\n## B|<i>") == "a\\` / \\#\\# B\\|&lt;i&gt;"


class TestNul:
    """A NUL in the name of a branch ended in a traceback of subprocess."""

    @pytest.mark.parametrize("read", [md5_at, find_version, lambda name, root: check_out_branch(name, root)])
    def test_in_the_name_of_a_branch(self, project: Path, read) -> None:
        with pytest.raises(InputError, match=r"'ma\\x00in', .*: it holds a NUL"):
            read("ma\0in", project)

    @pytest.mark.parametrize(
        "arguments",
        [["data", "diff", "ma\0in"], ["data", "import", "a\0.jsonl"], ["run", "a\0.yaml"], ["runs", "--recipe", "a\0"]],
    )
    def test_on_the_command_line(self, project: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(arguments) == 2
        assert "holds a NUL" in capsys.readouterr().err

    def test_in_a_recipe(self, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text('data:\n  path: "a\\0b"\n')
        assert main(["run", str(recipe)]) == 2
        said = capsys.readouterr().err
        assert "recipe.yaml:2: data.path" in said
        assert "holds a NUL" in said

    def test_in_a_form(self) -> None:
        for section, values in ((DataConfig, {"path": "a\0"}), (RetrainConfig, {"source": "inbox", "inbox": "a\0"})):
            with pytest.raises(ValueError, match="holds a NUL"):
                section.model_validate(values)

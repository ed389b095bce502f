import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "rlhf").rglob("*.py"))], ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    named = re.findall(r"`((?:rlhf|flows|tasks|configs|docs|tests)/[\w./-]+\.\w+)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_paper_index_has_every_paper_that_the_code_names():
    named = {
        paper for path in (ROOT / "rlhf").rglob("*.py") for paper in re.findall(r"\b\d{4}\.\d{5}\b", path.read_text())
    }
    index = (ROOT / "docs" / "paper-index.md").read_text()
    assert sorted(paper for paper in named if paper not in index) == []


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target
        for page in PAGES
        for target in re.findall(r"\bmake ([a-z]+)\b(?= +#|`|$)", page.read_text(), re.MULTILINE)
    }
    assert named - targets == set()


def test_decisions_are_numbered_in_a_row():
    numbers = [int(page.name[:4]) for page in sorted((ROOT / "docs" / "adr").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_messages_of_the_troubleshooting_page_are_in_the_code():
    text = {
        node.value
        for package in ("rlhf", "tasks", "flows")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    messages = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    pieces = {piece for message in messages for piece in message.split("...") if len(piece) > 3}
    assert messages
    assert sorted(piece for piece in pieces if not any(piece.strip(" ") in known for known in text)) == []

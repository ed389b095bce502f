"""The documentation site: strict where a page is wrong, and drawn by a browser that reaches nothing else."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from browser import opened
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.services
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "build_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the site is made of, to be changed by a test."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "[a page that is not there](no-such-page.md)",
        "[an anchor that is not there](operating.md#no-such-part)",
        '<img src="https://example.org/picture.png">',
    ],
)
def test_a_page_that_is_wrong_fails_the_build(builder: ModuleType, checkout: Path, line: str):
    with (checkout / "docs" / "index.md").open("a") as page:
        page.write(f"\n{line}\n")
    assert builder.build(checkout, checkout / ".site") != 0


def test_a_page_that_no_menu_leads_to_fails_the_build(builder: ModuleType, checkout: Path, capsys):
    (checkout / "docs" / "lost.md").write_text("# Lost\n")
    assert builder.build(checkout, checkout / ".site") == 1
    assert "lost.md: `nav` of docs/zensical.toml lacks it" in capsys.readouterr().err


@pytest.fixture(scope="module")
def site(builder: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("site")
    assert builder.build(ROOT, folder) == 0
    return folder / "html"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with opened("--allow-file-access-from-files") as browser_page:
        yield browser_page


def test_pages_ask_no_other_host(site: Path, page: Page):
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for file in sorted(site.rglob("*.html")):
        page.goto(file.as_uri(), wait_until="load")
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def test_pictures_are_drawn_without_a_network(site: Path, page: Page):
    page.goto((site / "architecture.html").as_uri())
    expect(page.locator("div.mermaid")).to_have_count(3)


def test_references_are_those_of_the_code(site: Path):
    reference = site / "reference"
    assert "kl_coef" in (reference / "settings.html").read_text()
    assert "evaluation/gold_gain" in (reference / "metrics.html").read_text()
    assert "rlhf data import" in (reference / "commands.html").read_text()

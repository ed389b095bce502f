"""Markdown in Prefect's pages: what somebody wrote into a datasheet loads nothing there, and runs nothing."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from rlhf.references import StageReport
from rlhf.text.safe_markdown import safe_markdown
from tasks import prefect_artifacts as display

HOSTILE = [
    "![img](http://evil.example/x.png)",
    "![img][ref]\n\n[ref]: http://evil.example/x.png",
    "![ref]\n\n[ref]: //evil.example/x.png",
    "[![img](http://evil.example/x.png)](https://ok.example)",
    "![two\nlines](http://evil.example/x.png)",
    "`!` ![after code](http://evil.example/x.png) `![`",
    "| a |\n|---|\n| ![img](http://evil.example/x.png) |",
    "- item\n\n      ![in a list, or code?](http://evil.example/x.png)",
    '<img src="http://evil.example/x.png" onerror="alert(1)">',
    '<IMG\nSRC="http://evil.example/x.png">',
    "text <img src=//evil.example/x.png> text",
    '<div style="background: url(http://evil.example/x.png)">\n\n![x](http://evil.example/x.png)\n\n</div>',
    "<script>\nalert(1)\n\n</script>",
    "<iframe src=http://evil.example></iframe>",
    "<!-- a comment\n![x](http://evil.example/x.png)\n-->\n",
    "<details open ontoggle=alert(1)><summary>x</summary>\n\n![x](http://evil.example/x.png)\n\n</details>",
    "<details><summary><img src=http://evil.example/x.png></summary>\n\nx\n\n</details>",
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt:alert(1))",
    "[click](&#106;avascript:alert(1))",
    "[click]( <javascript:alert(1)> )",
    "[click][x]\n\n[x]: javascript:alert(1)",
    "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "[click](vbscript:x) [click](file:///etc/passwd) [click](//evil.example) [click](figures/x.png)",
    "```\nnot closed",
    "> quoted\n```\n![x](http://evil.example/x.png)",
    "line\rwith odd ends\r![x](http://evil.example/x.png)\r<img src=http://evil.example/x.png>",
]
KEPT = [
    "# A title\n\nWords, *emphasis*, `<|endoftext|>` and `![no image](x)`.\n",
    "[a page](https://ok.example/x?y=1#z) [another](HTTP://ok.example) [mail](mailto:me@ok.example) [above](#title)\n",
    "| a | b |\n|---|---|\n| 1 < 2 is \\< | `<b>` |\n".replace("1 < 2 is \\< ", "1 "),
    "```html\n<img src=x>\n![img](http://ok.example/x.png)\n```\n",
    "<details><summary>All settings: sft</summary>\n\n| a |\n|---|\n| 1 |\n\n</details>\n",
]


class Seen(HTMLParser):
    """What a page would load, run or lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.tags.add(tag)
        known = dict(attributes)
        if "href" in known:
            self.links.append(known.pop("href") or "")
        assert set(known) <= {"class", "start", "style"}, (tag, attributes)
        assert known.get("style", "text-align").startswith("text-align"), attributes


def seen(markdown: str) -> Seen:
    """By a renderer that refuses nothing."""
    renderer = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    renderer.validateLink = lambda _: True  # type: ignore[method-assign, assignment]
    page = Seen()
    page.feed(renderer.render(markdown))
    return page


def check(markdown: str) -> None:
    page = seen(markdown)
    assert not page.tags & {"img", "script", "iframe", "div", "b", "style", "svg", "object", "embed", "link", "base"}
    assert all(link.lower().startswith(("http://", "https://", "mailto:", "#")) for link in page.links), page.links


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_is_loaded_or_run(text: str):
    """Row 9: images of the datasheet were loaded by the page, HTML stayed, and javascript: links could be clicked."""
    check(safe_markdown(text))
    check(safe_markdown(f"# Title\n\nBefore.\n\n{text}\n\nAfter.\n"))
    assert safe_markdown(safe_markdown(text)) == safe_markdown(text)


@pytest.mark.parametrize("text", KEPT)
def test_all_else_stays_as_it_is(text: str):
    """Row 9: what was taken out may not be more than had to be."""
    assert safe_markdown(text) == text


def test_what_is_taken_out_stands_as_text():
    """Row 9: a reader sees that something was there."""
    shown = MarkdownIt("commonmark").render(safe_markdown(HOSTILE[0] + " <b>bold</b>"))
    assert shown == "<p>![img](http://evil.example/x.png) &lt;b&gt;bold&lt;/b&gt;</p>\n"


PIECES = [
    "\n",
    "\n\n",
    "    ",
    "- ",
    "> ",
    "```",
    "`",
    "\\",
    "<!--",
    "-->",
    "<",
    ">",
    "!",
    "[",
    "]",
    "(",
    ")",
    "a",
    "| ",
]
PIECES += [
    "![a](http://evil.example/x.png)",
    "<img src=//evil.example>",
    "[a](javascript:x)",
    "\n[a]: data:x\n",
    "~~~\n",
]
PIECES += [
    "<details><summary>",
    "</summary>",
    "</details>",
    "<script>",
    "<?",
    "?>",
    "<![CDATA[",
    "\t",
    "&lt;",
    "javascript:",
]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_however_it_is_put_together(text: str):
    """Row 9: markup within markup, and markup that only comes about by what is taken out."""
    check(safe_markdown(text))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Prefect is given to show."""
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(display, "create_markdown_artifact", lambda **values: given.append(values))
    return given


def test_the_card_in_prefect(shown: list[dict[str, Any]], tmp_path: Path):
    """Row 9: the card beside the weights stays as it is; Prefect's copy of it loads nothing."""
    readme = tmp_path / "README.md"
    text = "---\nlicense: mit\n---\n\n# tiny\n\n![Scores](figures/scores.png)\n\n## Data\n\n" + "\n\n".join(
        HOSTILE[:20]
    )
    readme.write_text(text)
    display.show_card(readme)
    (artifact,) = shown
    check(artifact["markdown"])
    assert artifact["markdown"].strip().startswith("# tiny")
    assert "figures/scores.png" not in artifact["markdown"]
    assert readme.read_text() == text


def test_whatever_else_prefect_shows(shown: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch):
    """Row 9: other pages of the run are made of texts from outside as well."""
    monkeypatch.setattr("tasks.prefect_artifacts.run_url", lambda run_id: "http://127.0.0.1:5000/#/x")
    for text in HOSTILE:
        display.show_group(text)
        display.show_reproduction(text)
        display.show_verdict("rejected", text)
    display.show_stages([StageReport(name=HOSTILE[0], state="cached", run_id="1", seconds=1, trained_seconds=1)])
    for artifact in shown:
        check(artifact["markdown"])

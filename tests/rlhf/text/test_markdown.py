import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from rlhf.text.markdown import escape, table


def rendered(text):
    return MarkdownIt("commonmark", {"linkify": False}).enable("table").render(text)


def cells_of(text):
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    return [token for token in tokens if token.type in ("th_open", "td_open")]


def shown(text):
    """The text that a reader sees in a cell, and the kinds of markup around it."""
    [inline] = [t for t in MarkdownIt("commonmark").enable("table").parse(text) if t.type == "inline"][-1:]
    return "".join(child.content for child in inline.children), {child.type for child in inline.children}


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a | b | c",
        "![picture](http://example.org/x.png)",
        "[link](javascript:alert(1))",
        "**bold** __bold__ `code` ~~gone~~ #7 \\| $x$",
        "a & b &lt;",
        "see http://example.org and www.example.org or a@example.org",
        "<!-- comment",
    ],
)
def test_markup_is_shown_and_not_obeyed(text):
    seen, kinds = shown(table(["x"], [[escape(text)]]))
    assert seen == text
    assert kinds <= {"text", "text_special"}


def test_addresses_are_no_links_where_links_are_found_in_text():
    """As on GitHub, which links addresses that are only written."""
    text = escape("http://a.b www.c.d e@f.g")
    assert not any(part in text for part in ("://", "www.", "@"))


def test_lines_become_one():
    assert escape("one\ntwo\r\nthree\x00four") == "one / two / three four"


def test_long_text_is_cut_and_says_so():
    assert escape("abcdef", 4) == "abcd \\[...\\]"
    assert escape("abcdef", 6) == "abcdef"


@given(st.text(max_size=60))
def test_any_text_is_one_cell(text):
    document = table(["a", "b"], [[escape(text), "second"]])
    assert len(document.splitlines()) == 3
    assert len(cells_of(document)) == 4
    assert "html_inline" not in shown(document)[1]


@given(st.text(min_size=1, max_size=60))
def test_any_printable_text_is_shown_as_it_is(text):
    text = " ".join("".join(c for c in text if c.isprintable()).split())
    seen, kinds = shown(table(["x"], [[escape(text)]]) if text else table(["x"], [["-"]]))
    assert seen == (text or "-")
    assert kinds <= {"text", "text_special"}

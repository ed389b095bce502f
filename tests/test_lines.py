"""No line of JSON Lines, or of text that may hold content, ends at U+2028 or its like."""

import ast
from pathlib import Path

import pytest

from rlhf.text.lines import lines_of, parse_json_lines, read_json_lines

ROOT = Path(__file__).parents[1]
# What tools and the kernel say, and files of this repository: shown to people, or without content.
ALLOWED = {
    "benchmarks/measure.py",
    "benchmarks/peer_environment.py",
    "benchmarks/quiet.py",
    "benchmarks/records.py",
    "benchmarks/runner.py",
    "benchmarks/services.py",
    "flows/servers/supervision.py",
    "flows/servers/temporary.py",
    "rlhf/export/gguf.py",
    "rlhf/failures.py",
    "rlhf/rl/launch.py",
    "rlhf/provenance/environment.py",
    "rlhf/provenance/memory.py",
    "rlhf/runs/reproduction/venv.py",
}
SEPARATORS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\r"


def splits_lines(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.Attribute) and node.attr in ("splitlines", "readlines") for node in ast.walk(tree))


def test_splitlines_is_for_what_tools_say() -> None:
    files = [file for folder in ("rlhf", "tasks", "flows", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    found = {file.relative_to(ROOT).as_posix() for file in files if splits_lines(file)}
    assert found == ALLOWED, "rlhf.text.lines reads JSON Lines and text that may hold content"


@pytest.mark.parametrize("character", SEPARATORS)
def test_a_line_ends_at_a_line_feed_only(character: str, tmp_path: Path) -> None:
    text = f"one{character}two\n\nthree"
    assert lines_of(text) == [f"one{character}two", "", "three"]
    if character in "\x85\u2028\u2029":  # JSON leaves them as they are
        file = tmp_path / "rows.jsonl"
        file.write_text(f'{{"a": "x{character}y"}}\r\n{{"a": "z"}}\n', encoding="utf-8", newline="")
        rows = [{"a": f"x{character}y"}, {"a": "z"}]
        assert list(read_json_lines(file)) == rows
        assert parse_json_lines(file.read_text(encoding="utf-8")) == rows


def test_no_lines() -> None:
    assert lines_of("") == lines_of("")[:0] == parse_json_lines("") == []

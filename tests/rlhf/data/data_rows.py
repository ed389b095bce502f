"""Rows and folders of data for the tests of this package."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def demonstration(prompt: str = "What is 1 + 1 ?", answer: str = "2") -> Row:
    return {"prompt": user(prompt), "completion": assistant(answer)}


def preference(prompt: str = "What is 1 + 1 ?", chosen: str = "2", rejected: str = "3") -> Row:
    return {"prompt": user(prompt), "chosen": assistant(chosen), "rejected": assistant(rejected)}


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_folder(folder: Path, rows: Mapping[str, Iterable[Row]], datasheet: str = "# Data sheet\n") -> Path:
    for kind in ("demonstrations", "preferences", "prompts"):
        write_lines(folder / f"{kind}.jsonl", rows[kind])
    (folder / "datasheet.md").write_text(datasheet)
    return folder

"""Rows, data folders and commits, as files from outside are made of."""

import json
import subprocess
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def said(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def preference(number: int) -> Row:
    return {
        "prompt": said("user", f"What is {number} + {number} ?"),
        "chosen": said("assistant", f"It is {2 * number} ."),
        "rejected": said("assistant", "No ."),
    }


def write_lines(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_data(folder: Path) -> Path:
    """A data folder in which everything is as it should be."""
    pairs = [preference(number) for number in range(3)]
    write_lines(folder / "preferences.jsonl", pairs)
    write_lines(folder / "prompts.jsonl", [{"prompt": row["prompt"]} for row in pairs])
    demonstrations = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    write_lines(folder / "demonstrations.jsonl", demonstrations)
    (folder / "datasheet.md").write_text("# Sums\n\n## Licence\nCC0\n")
    return folder


def commit(root: Path, message: str) -> None:
    subprocess.run(["git", "add", "--all"], cwd=root, check=True)
    subprocess.run(["git", "commit", "--quiet", "--message", message], cwd=root, check=True)

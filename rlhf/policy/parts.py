"""Parts of what is made about many prompts: each is a file that appears whole, so that a killed run makes the rest."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rlhf.data.schema import json_lines
from rlhf.files.atomic import write_file
from rlhf.progress import report_progress
from rlhf.text.lines import read_json_lines


def collect_parts(
    folder: Path, stage: str, num_prompts: int, size: int, make: Callable[[range], Iterable[object]]
) -> list[dict[str, Any]]:
    """Make rows about prompts, or read those that were made before.

    Args:
        folder: of the parts, among a stage's checkpoints.
        stage: whose progress it is.
        num_prompts: all of them.
        size: prompts of a part.
        make: makes the rows of some of the prompts.
    """
    rows: list[dict[str, Any]] = []
    for first in range(0, num_prompts, size):
        prompts = range(first, min(first + size, num_prompts))
        path = folder / f"prompts_{first:08d}.jsonl"
        if not path.is_file():
            write_file(path, "".join(json_lines(make(prompts))))
        rows += read_json_lines(path)
        report_progress(stage, prompts.stop, num_prompts)
    return rows

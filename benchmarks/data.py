"""What a large preference file costs: import, validation, an addition and a comparison of two versions.

Each command runs in a process of its own in a git and DVC repository made for it. Prints one JSON object.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlhf.paths import source_root

_WORDS = [f"word{number:04d}" for number in range(2000)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of preferences [default: 1000000]")
    parser.add_argument("--added", type=float, default=0.01, help="share of rows that come later [default: 0.01]")
    parser.add_argument("--folder", type=Path, help="where to work [default: a temporary folder]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rlhf-bench-", dir=options.folder) as folder:
        print(json.dumps(measure(Path(folder), options.rows, int(options.rows * options.added)), indent=2))


def measure(folder: Path, num_rows: int, num_added: int) -> dict[str, Any]:
    """Make the file and the repository, and run the commands one after another."""
    first, later = folder / "first.jsonl", folder / "later.jsonl"
    write_rows(first, range(num_rows))
    write_rows(later, range(num_rows, num_rows + num_added))
    root = folder / "project"
    _make_repository(root)
    commands = {
        "import": ["import", str(first)],
        "validate": ["validate"],
        "status": ["status", "--json"],
        "add": ["add", str(later)],
        "diff": ["diff", "HEAD", "--json"],
    }
    figures = {}
    for name, arguments in commands.items():
        figures[name] = _run(["data", *arguments], root)
        if name == "import":
            for arguments in (["add", "data.dvc"], ["commit", "--quiet", "--message", "first"]):
                subprocess.run(["git", *arguments], cwd=root, check=True)
    return {
        "rows": num_rows,
        "added": num_added,
        "bytes": first.stat().st_size,
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "commands": figures,
    }


def write_rows(path: Path, numbers: range) -> None:
    """Preferences of some 450 bytes, each with a prompt of its own."""
    chance = random.Random(numbers.start)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in _rows(chance, numbers))


def _rows(chance: random.Random, numbers: range) -> Iterator[dict[str, Any]]:
    for number in numbers:
        texts = [" ".join(chance.choices(_WORDS, k=length)) for length in (10, 12, 12)]
        prompt, chosen, rejected = texts
        yield {
            "prompt": [{"role": "user", "content": f"Question {number}: {prompt} ?"}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
            "margin": float(number % 3),
            "annotator": f"annotator {number % 50}",
            "source": f"source {number % 5}",
        }


def _make_repository(root: Path) -> None:
    root.mkdir()
    dvc = [sys.executable, "-m", "dvc"]
    for command in (["git", "init", "--quiet"], [*dvc, "init", "--quiet"]):
        subprocess.run(command, cwd=root, check=True)
    for name, value in (("user.name", "benchmark"), ("user.email", "benchmark@example.org")):
        subprocess.run(["git", "config", name, value], cwd=root, check=True)


def _run(arguments: list[str], root: Path) -> dict[str, float]:
    """Seconds, seconds of CPU and peak memory of a command, which must succeed."""
    environment = os.environ | {"RLHF_ROOT": str(root), "PYTHONPATH": str(source_root())}
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "rlhf.cli", *arguments], cwd=root, env=environment, stdout=subprocess.DEVNULL
    )
    # Of this child alone; the resource module has the largest of all children.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"rlhf {' '.join(arguments)} failed")
    return {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1024, 1),
    }


if __name__ == "__main__":
    main()

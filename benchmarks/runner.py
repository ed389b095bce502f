"""Runs one side of a comparison in a process of its own, and looks at what else the machine did meanwhile."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quiet import BusyError, cpu_times, others_cores, wait_until_quiet
from benchmarks.records import ROOT, Result


class RunFailedError(Exception):
    """A run ended with an error."""


@dataclass(frozen=True)
class Timed:
    """A result, and the cores that others used meanwhile."""

    result: Result
    others_cores: float


def run_side(python: Path | str, module: str, flags: Sequence[str], threads: int, name: str) -> Timed:
    """Run `python -m module flags` and return the JSON that it wrote.

    Raises:
        RunFailedError: with the end of what it said.
    """
    print(f"  {name} ...", end="", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="bench_") as folder:
        out = Path(folder) / "result.json"
        before = cpu_times()
        ended = subprocess.run(
            [python, "-m", module, *flags, "--out", out],
            cwd=ROOT,
            env=_environment(threads),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        busy = others_cores(before, cpu_times())
        if ended.returncode or not out.exists():
            tail = "\n".join(ended.stdout.splitlines()[-15:])
            raise RunFailedError(f"{name}: {module} ended with status {ended.returncode}:\n{tail}")
        result: Result = json.loads(out.read_text())
    print(f" {result['wall_s']:.1f} s, others used {busy:.2f} cores", file=sys.stderr, flush=True)
    return Timed(result, round(busy, 3))


def quiet_or_allowed(patience_s: float, busy_allowed: bool) -> bool:
    """Wait for a quiet machine; whether it became one.

    Raises:
        BusyError: it did not, and that was not allowed.
    """
    try:
        wait_until_quiet(0.0 if busy_allowed else patience_s)
    except BusyError:
        if not busy_allowed:
            raise
        return False
    return True


def _environment(threads: int) -> dict[str, str]:
    """The same for both sides: as many threads as are asked for, nothing from the network."""
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONUNBUFFERED": "1",
    }

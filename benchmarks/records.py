"""Raw results, a line a cycle, so that a benchmark that was interrupted goes on at the cycle it was at.

A cycle is one run of the peer and one of each of ours that is compared with it. It is written when all of it is done:
the two runs of a pair are never hours apart.
"""

import datetime
import hashlib
import json
import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlhf.provenance.fingerprint import reached_sources
from rlhf.text.lines import parse_json_lines

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

Result = dict[str, Any]


@dataclass(frozen=True)
class Cycle:
    """Runs that belong together.

    Attributes:
        session: code, settings and machine; cycles of different sessions are never mixed.
        peer: the peer's result.
        ours: our results by case.
        others_cores: cores that other processes used meanwhile, by run: `peer`, or the case.
        quiet: the machine was found quiet before it.
        when: date and time, UTC.
        commit: of the repository; `+` where the working tree differed from it.
        machine: processor, cores, kernel.
    """

    session: str
    peer: Result
    ours: dict[str, Result]
    others_cores: dict[str, float]
    quiet: bool
    when: str
    commit: str
    machine: str


def append(path: Path, record: Any) -> None:
    """Add one line (a frozen dataclass's fields), in the place of a last line that a kill left torn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write((json.dumps(asdict(record)) + "\n").encode())


def measure_missing(
    file: Path, cells: Iterable[tuple[str, int]], measure: Callable[[str, int], Result], *, fresh: bool
) -> dict[str, Result]:
    """Measure recipes and seeds that are not measured yet; each is kept as soon as it is done.

    Args:
        file: keeps all results as JSON, by `RECIPE, seed SEED`.
        cells: recipe and seed.
        measure: of one of them.
        fresh: measure again what is done.

    Returns:
        All results that the file has by then.
    """
    rows: dict[str, Result] = json.loads(file.read_text()) if file.exists() else {}
    for recipe, seed in cells:
        key = f"{recipe}, seed {seed}"
        if key in rows and not fresh:
            continue
        rows[key] = measure(recipe, seed) | {"when": now(), "commit": commit(), "machine": machine()}
        print(json.dumps({key: rows[key]}), flush=True)
        file.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def read_cycles(path: Path) -> list[Cycle]:
    """All that were ever recorded, in order. The last line may be torn by a kill, and does not count then."""
    return [Cycle(**row) for row in read_rows(path)]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """JSON Lines; a torn last line is left out."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return parse_json_lines(text[: text.rfind("\n") + 1])


def missing(cycles: Iterable[Cycle], session: str, names: Sequence[str], pairs: int) -> list[str]:
    """The cases that have fewer pairs than wanted in this session."""
    done = dict.fromkeys(names, 0)
    for cycle in cycles:
        if cycle.session == session:
            for name in cycle.ours:
                done[name] = done.get(name, 0) + 1
    return [name for name in names if done[name] < pairs]


def latest_pairs(cycles: Sequence[Cycle], name: str) -> list[Cycle]:
    """The cycles of the newest session that measured this case."""
    with_case = [cycle for cycle in cycles if name in cycle.ours]
    return [cycle for cycle in with_case if cycle.session == with_case[-1].session]


def fingerprint(*settings: object) -> str:
    """Changes with the code of the library and of the benchmark, with the lock, the settings and the machine."""
    digest = hashlib.sha256(repr((settings, machine())).encode())
    for path in [*_sources(), ROOT / "requirements.lock"]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def current_session(path: Path, fingerprint: str, fresh: bool) -> str:
    """The newest session of this fingerprint, to go on with it, or a new one."""
    if fresh:
        return f"{fingerprint} {now()}"
    sessions = [str(row["session"]) for row in read_rows(path)]
    return next((one for one in reversed(sessions) if one.split()[0] == fingerprint), fingerprint)


def _sources() -> list[Path]:
    timed = ("arguments", "measure", "made_models", "our_run", "peer_ppo", "peer_groups", "cases")
    ours = reached_sources("rlhf.rl.stage").values()
    return sorted([*ours, *(ROOT / "benchmarks" / f"{name}.py" for name in timed)])


def machine() -> str:
    """Processor, cores and kernel."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(names)} cores, Linux {platform.release()}"


def commit() -> str:
    """Short hash of HEAD; `+` where a file that git tracks differs from it."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True)
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    changed = [line for line in dirty.stdout.splitlines() if not line[3:].startswith("benchmarks/")]
    return head.stdout.strip() + ("+" if changed else "")


def now() -> str:
    """UTC, to the minute."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")

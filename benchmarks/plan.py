"""`rlhf plan` against what happened: memory and minutes of recipes, before any run and after one earlier run.

Each case is planned in a project without runs and run once, shortened. Then a longer run of the same recipe with other
settings is planned from the first one, and run. Memory does not depend on what else the machine does; for minutes it
must be quiet. A line a case, and with all of them a table in benchmarks/README.md.
"""

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.quiet import BusyError, cpu_times, others_cores
from benchmarks.readme import table, write_part
from benchmarks.records import RESULTS, ROOT, commit, machine, now
from benchmarks.runner import quiet_or_allowed
from rlhf.paths import in_project
from rlhf.tracking.stores import open_store

FILE = RESULTS / "plan.json"
REAL = Path(os.environ.get("RLHF_SHARED", ROOT.parent / "shared")) / "realdata"
MODEL = REAL / "model" / "stories260K-hf"
PAIRS = REAL / "preference" / "hh_harmless_base_test.jsonl.gz"
NUM_PAIRS = 200
MEMORY_BOUND, TIME_BOUND = 0.15, 0.30
_20M = "--model.architecture.hidden-size 384 --model.architecture.num-layers 8 --model.architecture.num-heads 6"
_LORA = " ".join(f"--{stage}.lora.rank 16" for stage in ("sft", "reward-model", "rl"))


@dataclass(frozen=True)
class Case:
    """A recipe.

    Attributes:
        what: in words.
        recipe: its file.
        flags: of both runs.
        earlier: of the first run.
        later: of the second one.
        needs: the files of others that it reads.
    """

    what: str
    recipe: str
    flags: str
    earlier: str
    later: str
    needs: tuple[Path, ...] = ()


CASES = {
    "smoke": Case(
        "the smallest, fp32", "configs/smoke.yaml", "", "", "--seed 1 --sft.num-epochs 1 --rl.num-updates 12"
    ),
    "demo": Case(
        "0.9M, built",
        "configs/demo.yaml",
        "",
        "--sft.num-epochs 0.3 --reward-model.num-epochs 0.3 --rl.num-updates 6",
        "--seed 1 --sft.num-epochs 1 --reward-model.num-epochs 1 --rl.num-updates 18",
    ),
    "stories": Case(
        "0.3M, pretrained; it writes its own pairs",
        "configs/stories.yaml",
        f"--model.base {MODEL}",
        "--data.max-rows 600 --rl.num-updates 4",
        "--data.max-rows 1200 --rl.num-updates 8 --seed 1",
        (MODEL,),
    ),
    "init": Case(
        f"0.3M, pretrained; {NUM_PAIRS} real pairs, by `rlhf init`",
        "configs/mine.yaml",
        "",
        "--rl.num-updates 5",
        "--rl.num-updates 15 --seed 1",
        (MODEL, PAIRS),
    ),
    "adapters": Case(
        "the same with adapters over one backbone",
        "configs/mine.yaml",
        f"{_LORA} --rl.sharing adapters",
        "--rl.num-updates 5",
        "--rl.num-updates 10 --seed 1",
        (MODEL, PAIRS),
    ),
    "20M-trunk": Case(
        "20M, built; value head on the policy's trunk",
        "configs/demo.yaml",
        f"{_20M} --model.architecture.feed-forward-size 1536 --rl.sharing trunk --data.max-rows 4000",
        "--sft.num-epochs 0.3 --reward-model.num-epochs 0.3 --rl.num-updates 4 --rl.num-validation-prompts 64",
        "--sft.num-epochs 0.6 --reward-model.num-epochs 0.6 --rl.num-updates 8 --rl.num-validation-prompts 64",
    ),
}


@dataclass(frozen=True)
class Outcome:
    """A plan, and the run that followed it.

    Attributes:
        predicted_mb: of the stage that holds the most.
        measured_mb: the same.
        predicted_s: of all stages that are computed; None where the plan could not say.
        measured_s: the same.
        others_cores: cores that other processes used during the run.
        stages: seconds and MB of each stage, predicted and measured.
    """

    predicted_mb: float | None
    measured_mb: float
    predicted_s: float | None
    measured_s: float
    others_cores: float
    stages: Mapping[str, Mapping[str, float | None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"{', '.join(CASES)} [default: all]")
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine: memory counts, minutes do not")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds to wait until the machine is quiet")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"there is no case {min(unknown)}; there are {', '.join(CASES)}")
    rows = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name in options.cases or CASES:
        missing = [path for path in CASES[name].needs if not path.exists()]
        if missing:
            print(f"{name}: left out, there is no {missing[0]}", file=sys.stderr)
            continue
        try:
            is_quiet = quiet_or_allowed(options.patience, options.busy)
        except BusyError as error:
            sys.exit(f"benchmarks.plan: {error}")
        first, second = measure(CASES[name])
        rows[name] = {
            "first": asdict(first),
            "second": asdict(second),
            "quiet": is_quiet,
            "when": now(),
            "commit": commit(),
            "machine": machine(),
        }
        print(json.dumps({"case": name, **rows[name]}), flush=True)
        FILE.write_text(json.dumps(rows, indent=1) + "\n")
    write_part("plan", part(rows))
    print(part(rows))


def measure(case: Case) -> tuple[Outcome, Outcome]:
    """Plan and run a case twice, in a project of its own."""
    with tempfile.TemporaryDirectory(prefix="rlhf-plan-") as folder:
        root = Path(folder) / "project"
        make_project(root)
        if PAIRS in case.needs:
            _make_recipe(root, Path(folder))
        arguments = [case.recipe, *case.flags.split()]
        return tuple(_plan_and_run(root, [*arguments, *more.split()]) for more in (case.earlier, case.later))  # type: ignore[return-value]


def make_project(root: Path) -> None:
    """A git and DVC repository with the recipes and the embedded sets."""
    root.mkdir()
    for tool in (["git"], [sys.executable, "-m", "dvc"]):
        subprocess.run([*tool, "init", "--quiet"], cwd=root, check=True)
    for name, value in (("user.name", "benchmark"), ("user.email", "benchmark@example.org")):
        subprocess.run(["git", "config", name, value], cwd=root, check=True)
    shutil.copytree(ROOT / "configs", root / "configs")
    (root / "embedded").mkdir()
    for file in (ROOT / "embedded").glob("*.dvc"):
        shutil.copy(file, root / "embedded")
    shutil.copy(ROOT / "data.dvc", root)


def rlhf(root: Path, *arguments: str) -> str:
    """The standard output of a command, which must succeed."""
    environment = os.environ | {"RLHF_ROOT": str(root), "PREFECT_HOME": str(root / ".prefect"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "rlhf.cli", *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(
            f"benchmarks.plan: rlhf {' '.join(arguments)} ended with status {done.returncode}:\n{done.stderr[-3000:]}"
        )
    return done.stdout


def _make_recipe(root: Path, folder: Path) -> None:
    """The shortest pairs, for a model that reads 512 tokens of two characters each, and the recipe for them."""
    with gzip.open(PAIRS, "rt", encoding="utf-8") as file:
        (folder / "pairs.jsonl").write_text("".join(sorted(file, key=len)[:NUM_PAIRS]))
    rlhf(root, "data", "import", str(folder / "pairs.jsonl"), "--replace")
    rlhf(root, "init", "mine", "--base", str(MODEL))


def _plan_and_run(root: Path, arguments: Sequence[str]) -> Outcome:
    plan = json.loads(rlhf(root, "plan", *arguments, "--json"))
    before = cpu_times()
    report = json.loads(rlhf(root, "run", *arguments, "--json"))
    busy = others_cores(before, cpu_times())
    expected = {stage["name"]: stage for stage in plan["stages"] if not stage["cached"]}
    stages = {
        stage["name"]: _of_stage(root, expected[stage["name"]], stage)
        for stage in report["stages"]
        if stage["name"] in expected
    }
    return Outcome(
        predicted_mb=plan["memory_mb"],
        measured_mb=max(stage["measured_mb"] or 0.0 for stage in stages.values()),
        predicted_s=None if plan["unknown"] else plan["seconds"],
        measured_s=sum(stage["measured_s"] or 0.0 for stage in stages.values()),
        others_cores=round(busy, 3),
        stages=stages,
    )


def _of_stage(root: Path, planned: Mapping[str, Any], ran: Mapping[str, Any]) -> dict[str, float | None]:
    with in_project(root):
        metrics = open_store().runs([ran["run_id"]])[ran["run_id"]].metrics
    return {
        "predicted_s": planned["seconds"],
        "measured_s": ran["trained_seconds"],
        "predicted_mb": planned["memory_mb"],
        "measured_mb": metrics[f"{ran['name']}/peak_memory_mb"],
    }


def part(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, and what it says of the bounds."""
    lines, worst = [], {"memory": 0.0, "time": 0.0}
    for name, row in rows.items():
        first, second = row["first"], row["second"]
        cells = [f"`{name}`", CASES[name].what]
        for outcome in (first, second):
            cells += [_number(outcome["predicted_mb"]), _number(outcome["measured_mb"])]
            cells.append(_error(outcome["predicted_mb"], outcome["measured_mb"]))
            worst["memory"] = max(worst["memory"], _off(outcome["predicted_mb"], outcome["measured_mb"]))
        if row["quiet"]:
            cells += [_number(second["predicted_s"]), _number(second["measured_s"])]
            cells.append(_error(second["predicted_s"], second["measured_s"]))
            worst["time"] = max(worst["time"], _off(second["predicted_s"], second["measured_s"]))
        else:
            cells += ["", "", "busy machine"]
        cells.append(f"{max(first['others_cores'], second['others_cores']):.2f}")
        lines.append(cells)
    header = ["case", "what", "before any run: MB", "took", "off", "after one run: MB", "took", "off"]
    header += ["after one run: s", "took", "off", "others' cores"]
    rest = next(iter(rows.values()))
    quiet = [row for row in rows.values() if row["quiet"]]
    of_time = f"{worst['time']:.0%} (bound {TIME_BOUND:.0%})" if quiet else "not known: the machine was busy"
    return (
        f"{table(header, lines, right=range(2, 12))}\n\n"
        f"The worst error of memory is {worst['memory']:.0%} (bound {MEMORY_BOUND:.0%}), of time {of_time}. "
        f"{rest['when']} UTC, commit {rest['commit']}, {rest['machine']}. Others' cores: "
        "what other processes used during the runs, which memory does not depend on and time does."
    )


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}"


def _error(predicted: float | None, measured: float) -> str:
    return "?" if predicted is None else f"{predicted / measured - 1:+.0%}"


def _off(predicted: float | None, measured: float) -> float:
    return 1.0 if predicted is None else abs(predicted / measured - 1)


if __name__ == "__main__":
    main()

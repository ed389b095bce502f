"""`make bench-processes`: what several processes of one thread gain over one, with whole models and with sharded ones.

The sides run in turn, each round all three: one process, two with whole models, two with sharded ones. A ratio is one
process's seconds over theirs within a round; printed are the median over the rounds, the lowest and the highest, one
JSON line a side. Some 15 minutes for three rounds on two cores.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks import quiet, records
from benchmarks.arguments import Settings
from benchmarks.made_models import SHAPES, made_elsewhere
from benchmarks.records import Result
from benchmarks.runner import RunFailedError, quiet_or_allowed, run_side

RESULTS = records.RESULTS / "processes.jsonl"
SIDES: Mapping[str, tuple[int, str]] = {"one": (1, "none"), "whole": (2, "none"), "sharded": (2, "full")}
"""Processes and `compute.sharding` of each side."""
TARGETS = {"whole": 1.7, "sharded": 1.5}
"""Ratios of episodes a second to one process, at least."""
SETTINGS = Settings(episodes=128, ppo_epochs=1, micro_batch=16, threads=1)


@dataclass(frozen=True)
class ProcessesRun:
    """One side in one round."""

    round: int
    side: str
    models: str
    dtype: str
    settings: Settings
    result: Result
    others_cores: float
    quiet: bool
    when: str
    commit: str
    machine: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", choices=SHAPES, default="20M")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=300.0)
    parser.add_argument("--busy", action="store_true")
    options = parser.parse_args()
    try:
        runs = [_run(options, number, side) for number in range(1, options.rounds + 1) for side in SIDES]
    except (quiet.BusyError, RunFailedError) as error:
        sys.exit(f"bench-processes: {error}")
    for line in summarize(runs):
        print(json.dumps(line), flush=True)


def _run(options: argparse.Namespace, number: int, side: str) -> ProcessesRun:
    num_processes, sharding = SIDES[side]
    is_quiet = quiet_or_allowed(options.patience, options.busy)
    flags = [*made_elsewhere(options.models).flags(), *SETTINGS.flags(), "--dtype", options.dtype]
    started = ["--standalone", "--nproc-per-node", str(num_processes), "-m", "benchmarks.our_run"]
    timed = run_side(
        sys.executable,
        "torch.distributed.run",
        [*started, *flags, "--warmup-updates", "1", "--sharding", sharding],
        SETTINGS.threads,
        f"round {number}: {side}",
    )
    run = ProcessesRun(
        number,
        side,
        options.models,
        options.dtype,
        SETTINGS,
        timed.result,
        timed.others_cores,
        is_quiet,
        records.now(),
        records.commit(),
        records.machine(),
    )
    records.append(RESULTS, run)
    return run


def summarize(runs: Sequence[ProcessesRun]) -> list[Result]:
    """A line for each side: speed, its ratio to one process, and memory of the first process."""
    alone = {run.round: run.result["wall_s"] for run in runs if run.side == "one"}
    lines: list[Result] = []
    for side in SIDES:
        of_side = [run for run in runs if run.side == side]
        ratios = sorted(alone[run.round] / run.result["wall_s"] for run in of_side)
        target = TARGETS.get(side)
        lines.append(
            {
                "case": f"processes-{of_side[0].models}-{of_side[0].dtype}-{side}",
                "episodes_per_s": round(statistics.median(run.result["episodes_per_s"] for run in of_side), 2),
                "ratio": round(statistics.median(ratios), 2),
                "spread": [round(ratios[0], 2), round(ratios[-1], 2)],
                "target": target,
                "met": None if target is None else statistics.median(ratios) >= target,
                "peak_rss_mb": round(statistics.median(run.result["peak_rss_mb"] for run in of_side)),
                "others_cores": max(run.others_cores for run in of_side),
                "settings": asdict(SETTINGS),
            }
        )
    return lines


if __name__ == "__main__":
    main()

"""`make bench-optimum`: does PPO reach an optimum that is known?

In worlds so small that the best policy is a finite sum (`benchmarks.closed_form`): five seeds, each another world, in
fp32 and bf16, with every kind of sharing, at two temperatures. Each cell is set beside its ceiling, what exact gradient
ascent reaches on the same weights, and planted faults must not get there.

    make bench-optimum             # everything, some three quarters of an hour on two cores
    make bench-optimum QUICK=1     # a smoke of two minutes; its figures mean nothing and are not kept

Results go to benchmarks/results/optimum.jsonl, a line a run, so that an interrupted benchmark goes on at the runs that
it has not done; then come a JSON line a cell, a figure, the table of benchmarks/README.md and a figure in README.md.
"""

import argparse
import itertools
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import optimum_report, records
from benchmarks.optimum_runs import CURVE_STEP, FULL, Budget, Case, Ended, ascend, run_ppo

RESULTS = records.RESULTS / "optimum.jsonl"
QUICK = Budget(num_updates=4, rollout_size=64)
CASES = [Case(*cell) for cell in itertools.product(("fp32", "bf16"), ("none", "trunk", "adapters"), (1.0, 0.7))]
FAULTY = [
    Case("fp32", "none", 1.0, "value-after-token"),
    Case("fp32", "none", 1.0, "eos-masked"),
    Case("fp32", "none", 1.0, "next-advantage"),
    Case("fp32", "none", 0.7, "reference-at-T1"),
]
ASCENTS = sorted({case.ascent for case in CASES}, key=lambda case: case.name)

Job = tuple[str, Case, int]
"""Kind (`ascent` or `ppo`), case and seed."""


@dataclass(frozen=True)
class OptimumRun:
    """One run of one seed.

    Attributes:
        session: code and settings; runs of different sessions are never mixed.
        kind: `ppo`, or `ascent` for exact gradient ascent.
        case: `Case.name`.
        seed: of the world and of the run.
        ceiling: share that exact ascent reached in this world; None for an ascent itself.
    """

    session: str
    kind: str
    case: str
    seed: int
    dtype: str
    sharing: str
    temperature: float
    fault: str
    share: float | None
    kl_to_optimum: tuple[float, float] | None
    ceiling: float | None
    seconds: float
    score: Mapping[str, Any] | None
    kl: Mapping[str, Any] | None
    refused: str
    curve: list[float]
    when: str
    commit: str
    machine: str


def main() -> None:
    options = _options()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # of the processes that are started
    if options.quick:
        rows = [asdict(run) for run in _measure(_jobs(1), "quick", QUICK, options.processes, [])]
        optimum_report.print_lines(rows, quick=True)
        return
    session = records.current_session(RESULTS, _fingerprint(), options.fresh)
    for run in _measure(_jobs(options.seeds), session, FULL, options.processes, _rows(session)):
        records.append(RESULTS, run)
    optimum_report.report(_rows(session))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="seeds of a cell, from 1 on")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=int, default=cores, help="runs at a time, each on one thread [all cores]")
    parser.add_argument("--fresh", action="store_true", help="use no run of an earlier call")
    parser.add_argument("--quick", action="store_true", help="few updates, one seed, nothing kept")
    options = parser.parse_args()
    if min(options.seeds, options.processes) < 1:
        parser.error("--seeds and --processes must be at least 1")
    return options


def _fingerprint() -> str:
    names = ("closed_form", "optimum_faults", "optimum_runs")
    code = [(Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8") for name in names]
    return records.fingerprint(code)


def _rows(session: str) -> list[dict[str, Any]]:
    return [row for row in records.read_rows(RESULTS) if row["session"] == session]


def _jobs(num_seeds: int) -> list[Job]:
    """Seed by seed, so that an interrupted benchmark has whole seeds; within one, what bounds its runs comes first."""
    kinds = [("ascent", case) for case in ASCENTS] + [
        ("ppo", case) for case in (*FAULTY, *reversed(CASES))
    ]  # the long ones first
    return [(kind, case, seed) for seed in range(1, num_seeds + 1) for kind, case in kinds]


def _measure(
    jobs: Sequence[Job], session: str, budget: Budget, processes: int, done: Sequence[Mapping[str, Any]]
) -> Iterator[OptimumRun]:
    """Do the jobs that are not done, some at a time, and yield each run as soon as it and its ceiling are there."""
    keys = {(row["kind"], row["case"], row["seed"]) for row in done}
    ceilings = {(row["case"], row["seed"]): row["share"] for row in done if row["kind"] == "ascent"}
    todo = [job for job in jobs if (job[0], job[1].name, job[2]) not in keys]
    waiting: list[tuple[Job, Ended]] = []
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(_do, job, budget): job for job in todo}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                (kind, case, seed), ended = futures[future], future.result()
                shown = ended.refused or f"{ended.share:.1%}"
                print(f"  {number}/{len(todo)} {kind} {case.name}, seed {seed}: {shown}", file=sys.stderr, flush=True)
                if kind == "ascent":
                    ceilings[case.name, seed] = ended.share
                waiting.append((futures[future], ended))
                for job, of_job in list(waiting):
                    ceiling = ceilings.get((job[1].ascent.name, job[2]))
                    if ceiling is not None:
                        waiting.remove((job, of_job))
                        yield _run(job, of_job, session, None if job[0] == "ascent" else ceiling)
        finally:
            pool.shutdown(cancel_futures=True)


def _do(job: Job, budget: Budget) -> Ended:
    kind, case, seed = job
    return ascend(case, seed, budget) if kind == "ascent" else run_ppo(case, seed, budget)


def _run(job: Job, ended: Ended, session: str, ceiling: float | None) -> OptimumRun:
    kind, case, seed = job
    curve = [round(share, 4) for share in ended.curve[::CURVE_STEP]]
    return OptimumRun(
        session=session,
        kind=kind,
        case=case.name,
        seed=seed,
        dtype=case.dtype,
        sharing=case.sharing,
        temperature=case.temperature,
        fault=case.fault,
        share=ended.share,
        kl_to_optimum=ended.kl_to_optimum,
        ceiling=ceiling,
        seconds=round(ended.seconds, 1),
        score=asdict(ended.score) if ended.score else None,
        kl=asdict(ended.kl) if ended.kl else None,
        refused=ended.refused,
        curve=curve,
        when=records.now(),
        commit=records.commit(),
        machine=records.machine(),
    )


if __name__ == "__main__":
    main()

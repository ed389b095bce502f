"""`make bench-optimum`: do the methods reach an optimum that is known?

In worlds so small that the best policy is a finite sum (`benchmarks.closed_form`): five seeds, each another world. PPO
in fp32 and bf16, with every kind of sharing, at two temperatures; the methods without a critic in fp32, with the KL in
the reward and in the loss. Each cell is set beside its ceiling, what exact gradient ascent reaches on the same weights,
and planted faults must not get there.

    make bench-optimum                       # everything, some hour and a half on two cores
    make bench-optimum ARGS="--only methods" # the methods without a critic
    make bench-optimum QUICK=1               # a smoke of minutes; its figures mean nothing and are not kept

Results go to benchmarks/results/optimum.jsonl and optimum-methods.jsonl, a line a run, so that an interrupted benchmark
goes on at the runs that it has not done; then come a JSON line a cell, figures, the tables of benchmarks/README.md and
a figure in README.md.
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
from benchmarks.optimum_runs import CURVE_STEP, FULL, Budget, Case, Ended, ascend, run_method

QUICK = Budget(num_updates=4, rollout_size=64)
CASES = [Case(*cell) for cell in itertools.product(("fp32", "bf16"), ("none", "trunk", "adapters"), (1.0, 0.7))]
FAULTY = [
    Case("fp32", "none", 1.0, "value-after-token"),
    Case("fp32", "none", 1.0, "eos-masked"),
    Case("fp32", "none", 1.0, "next-advantage"),
    Case("fp32", "none", 0.7, "reference-at-T1"),
]
_SOUND_METHODS = [
    ("rloo", "reward"),
    *((method, kl_in) for method in ("dr_grpo", "grpo") for kl_in in ("reward", "loss")),
    ("online_dpo", ""),
]
_FAULTS_OF_GROUPS = ("handed-on", "kl-sign", "eos-masked")


@dataclass(frozen=True)
class Part:
    """A part of the benchmark, with results and a table of its own.

    Attributes:
        name: of its results and of its table.
        cases: without a fault.
        faulty: with one.
    """

    name: str
    cases: Sequence[Case]
    faulty: Sequence[Case]

    @property
    def results(self) -> Path:
        """The file of its runs."""
        return records.RESULTS / f"{self.name}.jsonl"

    @property
    def ascents(self) -> list[Case]:
        """The exact ascents beside its cases."""
        return sorted({case.ascent for case in self.cases}, key=lambda case: case.name)


PARTS = {
    "ppo": Part("optimum", CASES, FAULTY),
    "methods": Part(
        "optimum-methods",
        [Case("fp32", "none", 1.0, "", *method) for method in _SOUND_METHODS],
        [
            Case("fp32", "none", 1.0, fault, method)
            for method in ("rloo", "dr_grpo", "grpo")
            for fault in _FAULTS_OF_GROUPS
        ],
    ),
}

Job = tuple[str, Case, int]
"""Kind (`ascent` or `method`), case and seed."""


@dataclass(frozen=True)
class OptimumRun:
    """One run of one seed.

    Attributes:
        session: code and settings; runs of different sessions are never mixed.
        kind: `method`, or `ascent` for exact gradient ascent.
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
    for name, part in PARTS.items():
        if options.only in (None, name):
            _do_part(part, options)


def _do_part(part: Part, options: argparse.Namespace) -> None:
    if options.quick:
        rows = [asdict(run) for run in _measure(_jobs(part, 1), "quick", QUICK, options.processes, [])]
        optimum_report.print_lines(rows, quick=True)
        return
    session = records.current_session(part.results, _fingerprint(), options.fresh)
    done = _rows(part, session)
    for run in _measure(_jobs(part, options.seeds), session, FULL, options.processes, done):
        records.append(part.results, run)
    optimum_report.report(part.name, _rows(part, session))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="seeds of a cell, from 1 on")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=int, default=cores, help="runs at a time, each on one thread [all cores]")
    parser.add_argument("--fresh", action="store_true", help="use no run of an earlier call")
    parser.add_argument("--only", choices=PARTS, help="this part alone")
    parser.add_argument("--quick", action="store_true", help="few updates, one seed, nothing kept")
    options = parser.parse_args()
    if min(options.seeds, options.processes) < 1:
        parser.error("--seeds and --processes must be at least 1")
    return options


def _fingerprint() -> str:
    names = ("closed_form", "optimum_faults", "optimum_runs")
    code = [(Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8") for name in names]
    return records.fingerprint(code)


def _rows(part: Part, session: str) -> list[dict[str, Any]]:
    return [row for row in records.read_rows(part.results) if row["session"] == session]


def _jobs(part: Part, num_seeds: int) -> list[Job]:
    """Seed by seed, so that an interrupted benchmark has whole seeds; within one, what bounds its runs comes first."""
    kinds = [("ascent", case) for case in part.ascents] + [
        ("method", case) for case in (*part.faulty, *reversed(part.cases))
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
    return ascend(case, seed, budget) if kind == "ascent" else run_method(case, seed, budget)


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

"""`make bench`: PPO beside TRL 1.12.0's, RLOO and GRPO beside those of the lock's TRL, in turn, on a quiet machine.

    make bench                                  # everything, about an hour and a half on two cores
    make bench CASES="20M-epochs4 2M-epochs4"   # some cases
    make bench QUICK=1                          # a smoke of a minute; its figures mean nothing and are not kept

Prints one JSON line a case, adds raw results to benchmarks/results/bench.jsonl and writes the table of
benchmarks/README.md. What was interrupted goes on at the pair it was at.
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from benchmarks import quiet, readme, records
from benchmarks.cases import CASES, Case, groups, running_order, shrunk
from benchmarks.made_models import ModelSet, made_elsewhere
from benchmarks.peer_environment import PeerEnvironmentError, peer_python
from benchmarks.records import Cycle
from benchmarks.runner import RunFailedError, Timed, quiet_or_allowed, run_side
from benchmarks.summary import Summary, UnequalLengthsError, check_lengths, summarize

RESULTS = records.RESULTS / "bench.jsonl"


def main() -> None:
    options = _options()
    try:
        _bench(options)
    except (quiet.BusyError, PeerEnvironmentError, RunFailedError, UnequalLengthsError) as error:
        sys.exit(f"bench: {error}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"all unless given: {', '.join(CASES)}")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--micro-batch", type=int, help="ours; the peer's is 16")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds to wait for a quiet machine")
    parser.add_argument("--busy", action="store_true", help="measure although others use the machine, and say so")
    parser.add_argument("--fresh", action="store_true", help="use no pair of an earlier call")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one pair, nothing kept")
    options = parser.parse_args()
    unknown = [name for name in options.cases if name not in CASES]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; there are: {', '.join(CASES)}")
    return options


def _bench(options: argparse.Namespace) -> None:
    cases = [CASES[name] for name in options.cases or CASES]
    fingerprint = records.fingerprint(options.threads, options.micro_batch)
    session = records.current_session(RESULTS, fingerprint, options.fresh)
    bench = Bench(cache(peer_python), session, options.threads, options.micro_batch)
    if options.quick:
        for summary in bench.quick(cases):
            print(json.dumps({"quick": True} | summary.row), flush=True)
        return
    for group in groups(cases):
        _measure(bench, group, options)
        cycles = [cycle for cycle in records.read_cycles(RESULTS) if cycle.session == bench.session]
        for case in group:
            pairs = [cycle for cycle in cycles if case.name in cycle.ours]
            check_lengths(case, pairs)
            print(json.dumps(summarize(case, pairs).row), flush=True)
    readme.write_part("speed", readme.speed_part(all_summaries(records.read_cycles(RESULTS))))


def all_summaries(cycles: Sequence[Cycle]) -> list[Summary]:
    """The newest session of every case, in the order of the table."""
    pairs = {name: records.latest_pairs(cycles, name) for name in CASES}
    return [summarize(CASES[name], found) for name, found in pairs.items() if found]


def _measure(bench: "Bench", group: Sequence[Case], options: argparse.Namespace) -> None:
    """Run cycles until every case of the group has its pairs."""
    names = [case.name for case in group]
    models = made_elsewhere(group[0].models)
    for seed in itertools.count(1):
        lacking = records.missing(records.read_cycles(RESULTS), bench.session, names, options.pairs)
        if not lacking:
            return
        is_quiet = quiet_or_allowed(options.patience, options.busy)
        print(f"A cycle of {', '.join(lacking)}", file=sys.stderr)
        todo = [case for case in group if case.name in lacking]
        records.append(RESULTS, bench.cycle(todo, models, seed, is_quiet))


@dataclass(frozen=True)
class Bench:
    """What stays the same throughout.

    Attributes:
        peer_python: makes the environment of TRL's PPO where it is not there, and returns its interpreter.
        session: see `records.Cycle`.
        threads: of either side.
        micro_batch: ours; None is the case's.
    """

    peer_python: Callable[[], Path]
    session: str
    threads: int
    micro_batch: int | None

    def cycle(self, todo: list[Case], models: ModelSet, seed: int, is_quiet: bool) -> Cycle:
        """Run each of ours and, between the first two of them, the peer, all from one seed."""
        peer, ours, busy = {}, {}, {}
        for case in running_order(todo):
            if case is None:
                timed = self._peer(todo[0], models, seed)
                peer, busy["peer"] = timed.result, timed.others_cores
            else:
                timed = self._ours(case, models, seed)
                ours[case.name], busy[case.name] = timed.result, timed.others_cores
        when, commit, machine = records.now(), records.commit(), records.machine()
        return Cycle(self.session, peer, ours, busy, is_quiet, when, commit, machine)

    def quick(self, cases: Sequence[Case]) -> list[Summary]:
        """One cycle of everything, tiny."""
        bench, summaries = replace(self, session="quick", micro_batch=None), []
        for group in groups(shrunk(case) for case in cases):
            cycle = bench.cycle(group, made_elsewhere(group[0].models), 1, is_quiet=False)
            summaries += [summarize(case, [cycle]) for case in group]
        return summaries

    def _peer(self, case: Case, models: ModelSet, seed: int) -> Timed:
        settings = replace(case.settings, threads=self.threads, seed=seed)
        flags = [*models.flags(), *settings.flags(), *case.peer_flags()]
        python = self.peer_python() if case.method == "ppo" else sys.executable
        return run_side(python, case.peer_module, flags, self.threads, "peer")

    def _ours(self, case: Case, models: ModelSet, seed: int) -> Timed:
        case = replace(case, settings=replace(case.settings, threads=self.threads, seed=seed))
        flags = [*models.flags(), *case.our_flags(self.micro_batch)]
        return run_side(sys.executable, "benchmarks.our_run", flags, self.threads, case.name)


if __name__ == "__main__":
    main()

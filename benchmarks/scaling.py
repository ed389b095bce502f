"""`make bench-scaling`: what an update costs against response length, rollout size and model size. Ours only.

Each size is run alone, one update after one that warms up. All sizes make a round, and there are several rounds, so
that what neighbours do meanwhile falls on all sizes. Medians over the rounds are set beside what the arithmetic expects
(`benchmarks.growth`). Some two minutes a round.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from benchmarks import growth, quiet, readme, records
from benchmarks.arguments import Settings
from benchmarks.arithmetic import cache_bytes, update_flops
from benchmarks.figures import ScalingSeries, draw_scaling
from benchmarks.growth import Size
from benchmarks.made_models import SHAPES, made_elsewhere
from benchmarks.records import Result
from benchmarks.runner import RunFailedError, quiet_or_allowed, run_side

RESULTS = records.RESULTS / "scaling.jsonl"
PICTURE = records.ROOT / "benchmarks" / "pictures" / "scaling.png"
KINDS = {
    "generation": ("generation",),
    "scoring": ("policy_logprobs", "ref_logprobs", "values", "scores"),
    "training": ("policy_training", "value_training", "optimizer"),
}
"""Phases as they are drawn, and what `our_run` calls their parts."""

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

_BASE = Settings(episodes=64, rollout=32, ppo_epochs=1, micro_batch=16)
SWEEPS: dict[str, list[tuple[int, str, Settings]]] = {
    "response tokens": [(n, "2M", replace(_BASE, response_tokens=n)) for n in (16, 32, 64, 128, 256, 512)],
    "episodes a rollout": [(n, "2M", replace(_BASE, episodes=2 * n, rollout=n)) for n in (16, 32, 64, 128, 256)],
    "parameters": [(0, name, _BASE) for name in ("0.3M", "2M", "8M", "20M")],
}
"""By what is varied: its value (0: the model's size, which the run tells), the models, the settings."""


@dataclass(frozen=True)
class Point:
    """One size in one round: what its second update took, phase by phase.

    Attributes:
        reading_bytes_per_s: `growth.reading_rate`, measured before the round.
    """

    session: str
    round: int
    sweep: str
    x: float
    models: str
    settings: Settings
    dtype: str
    seconds: dict[str, float]
    reading_bytes_per_s: float
    others_cores: float
    quiet: bool
    when: str
    commit: str
    machine: str


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    try:
        _scale(options)
    except (quiet.BusyError, RunFailedError) as error:
        sys.exit(f"bench-scaling: {error}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--patience", type=float, default=300.0)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--fresh", action="store_true", help="use no point of an earlier call")
    return parser.parse_args()


def _scale(options: argparse.Namespace) -> None:
    fingerprint = records.fingerprint(SWEEPS, options.dtype, options.threads)
    session = records.current_session(RESULTS, fingerprint, options.fresh)
    done = {(row["round"], row["sweep"], json.dumps(row["settings"]), row["models"]) for row in _rows(session)}
    for number in range(1, options.rounds + 1):
        bytes_per_s: float | None = None
        for sweep, x, models, settings in _sizes(options.threads):
            if (number, sweep, json.dumps(asdict(settings)), models) in done:
                continue
            is_quiet = quiet_or_allowed(options.patience, options.busy)
            bytes_per_s = bytes_per_s or growth.reading_rate(DTYPES[options.dtype])
            flags = [*made_elsewhere(models).flags(), *settings.flags(), "--dtype", options.dtype]
            name = f"round {number}: {sweep} {x or models}"
            timed = run_side(
                sys.executable, "benchmarks.our_run", [*flags, "--warmup-updates", "1"], settings.threads, name
            )
            point = Point(
                session=session,
                round=number,
                sweep=sweep,
                x=x or timed.result["parameters"],
                models=models,
                settings=settings,
                dtype=options.dtype,
                seconds=by_kind(timed.result["seconds"]) | {"all": timed.result["wall_s"]},
                reading_bytes_per_s=bytes_per_s,
                others_cores=timed.others_cores,
                quiet=is_quiet,
                when=records.now(),
                commit=records.commit(),
                machine=records.machine(),
            )
            records.append(RESULTS, point)
    report(_rows(session))


def _sizes(threads: int) -> Iterator[tuple[str, int, str, Settings]]:
    for sweep, sizes in SWEEPS.items():
        for x, models, settings in sizes:
            yield sweep, x, models, replace(settings, threads=threads)


def _rows(session: str) -> list[Result]:
    return [row for row in records.read_rows(RESULTS) if row["session"] == session]


def by_kind(phases: Mapping[str, float]) -> dict[str, float]:
    """Seconds of the phases that are drawn."""
    return {kind: sum(phases.get(name, 0.0) for name in names) for kind, names in KINDS.items()}


def report(rows: Sequence[Result]) -> None:
    """Print a JSON line a sweep, draw the figure, write the README's part."""
    series: dict[str, ScalingSeries] = {}
    grown: list[list[str]] = []
    table: list[list[str]] = []
    for sweep in SWEEPS:
        of_sweep = [row for row in rows if row["sweep"] == sweep]
        line = summarize(sweep, of_sweep)
        print(json.dumps(line), flush=True)
        found = f"{line['low']:.2f} to {line['high']:.2f} of what the arithmetic expects"
        phases = {kind: line["seconds"][kind] for kind in ("all", *KINDS)}
        series[sweep] = (line["x"], phases, line["expected"]["all"], found)
        grown += [_growth_row(sweep, line, kind) for kind in ("all", *KINDS)]
        table += [_size_row(sweep, line, of_sweep, place) for place in range(len(line["x"]))]
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    draw_scaling(series, PICTURE)
    readme.write_part("scaling", part(rows, grown, table))


def summarize(sweep: str, rows: Sequence[Result]) -> Result:
    """What the rounds say of one sweep: medians, what the arithmetic expects, and how far apart the two are.

    Returns:
        x; `seconds` and `expected` by phase, the latter for the largest sizes; `exponents` by phase, measured and
        expected; at the largest size, measured over expected within each round: `over_expected`, the median by
        phase, and `low` and `high` of the whole update.
    """
    by_round: dict[int, list[Size]] = {}
    for row in sorted(rows, key=lambda row: float(row["x"])):
        by_round.setdefault(row["round"], []).append(_size(row))
    bytes_per_s = {row["round"]: float(row["reading_bytes_per_s"]) for row in rows}
    x = [size.x for size in by_round[rows[0]["round"]]]
    middle = [_median(sizes) for sizes in zip(*by_round.values(), strict=True)]
    median_rate = statistics.median(bytes_per_s.values())
    expected = growth.expected(middle, median_rate)
    seconds = {kind: [size.seconds[kind] for size in middle] for kind in expected}
    over = [
        {kind: sizes[-1].seconds[kind] / of_kind[-1] for kind, of_kind in growth.expected(sizes, rate).items()}
        for sizes, rate in ((sizes, bytes_per_s[number]) for number, sizes in by_round.items())
    ]
    return {
        "case": f"scaling: {sweep}",
        "rounds": len(by_round),
        "x": x,
        "seconds": {kind: _rounded(of_kind) for kind, of_kind in seconds.items()},
        "expected": {kind: _rounded(of_kind) for kind, of_kind in expected.items()},
        "exponents": {
            kind: _rounded([growth.exponent(x, seconds[kind]), growth.exponent(x, expected[kind])]) for kind in expected
        },
        "over_expected": {kind: round(statistics.median(one[kind] for one in over), 3) for kind in expected},
        "low": round(min(one["all"] for one in over), 3),
        "high": round(max(one["all"] for one in over), 3),
        "reading_gb_per_s": round(median_rate / 1e9, 1),
    }


def _size(row: Result) -> Size:
    shape, settings = SHAPES[row["models"]], Settings(**row["settings"])
    num_bytes = cache_bytes(shape, settings, DTYPES[row["dtype"]].itemsize)
    return Size(float(row["x"]), row["seconds"], update_flops(shape, settings), num_bytes)


def _median(sizes: Sequence[Size]) -> Size:
    """Of one size, over the rounds."""
    kinds = sizes[0].seconds
    return replace(sizes[0], seconds={kind: statistics.median(one.seconds[kind] for one in sizes) for kind in kinds})


def _rounded(numbers: Sequence[float]) -> list[float]:
    return [round(number, 3) for number in numbers]


def part(rows: Sequence[Result], grown: Sequence[Sequence[str]], sizes: Sequence[Sequence[str]]) -> str:
    """The README's part on scaling."""
    num_rounds = len({row["round"] for row in rows})
    last, noise = rows[-1], "a quiet machine" if all(row["quiet"] for row in rows) else "**a busy machine**"
    rate = statistics.median(float(row["reading_bytes_per_s"]) for row in rows) / 1e9
    lead = (
        "Seconds of one update (1 PPO epoch, prompts of 24 to 32 tokens); tokens are response tokens. "
        f"Medians of {num_rounds} rounds. "
        f"{last['dtype']}, {last['settings']['threads']} threads, {last['when']} UTC, commit {last['commit']}, "
        f"{last['machine']}, {noise}."
    )
    explained = (
        "From the third largest size to the largest. Expected: every phase grows with its operations, and decoding "
        f"reads the cache at {rate:.1f} GB/s, the rate of attention's products measured alone. Over expected: seconds "
        "at the largest size, measured over expected, within each round; above 1 something grows faster than it must."
    )
    growths = readme.table(
        ["what varies", "phase", "grows as", "expected", "over expected", "spread"], grown, right=range(2, 5)
    )
    header = ["what varies", "x", *(f"{kind}, s" for kind in (*KINDS, "all")), "spread of all, s"]
    header += ["generation, tokens/s", "training, tokens/s"]
    seconds = readme.table(header, sizes, right=[*range(1, 6), 7, 8])
    return "\n\n".join([lead, seconds, explained, growths, "![Scaling](pictures/scaling.png)"])


def _growth_row(sweep: str, line: Result, kind: str) -> list[str]:
    measured, expected = line["exponents"][kind]
    spread = f"{line['low']:.2f} to {line['high']:.2f}" if kind == "all" else ""
    return [sweep, kind, f"x^{measured:.2f}", f"x^{expected:.2f}", f"{line['over_expected'][kind]:.2f}", spread]


def _size_row(sweep: str, line: Result, rows: Sequence[Result], place: int) -> list[str]:
    x = line["x"][place]
    of_size = [row for row in rows if float(row["x"]) == x]
    spread = [float(row["seconds"]["all"]) for row in of_size]
    settings = of_size[0]["settings"]
    tokens = settings["rollout"] * settings["response_tokens"]
    seconds = {kind: line["seconds"][kind][place] for kind in (*KINDS, "all")}
    speeds = [f"{tokens / seconds[kind]:,.0f}" for kind in ("generation", "training")]
    shown = [f"{took:.2f}" for took in seconds.values()]
    return [sweep, f"{x:,.0f}", *shown, f"{min(spread):.2f} to {max(spread):.2f}", *speeds]


if __name__ == "__main__":
    main()

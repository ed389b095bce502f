"""`make bench-scaling`: what an update costs against response length, rollout size and model size. Ours only.

Each size is run alone, one update after one that warms up, and set beside the arithmetic (`benchmarks.arithmetic`).
Where the fitted exponent is above the arithmetic's, something grows faster than it must. A few minutes in all.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from benchmarks import quiet, readme, records
from benchmarks.arguments import Settings
from benchmarks.arithmetic import Flops, update_flops
from benchmarks.figures import ScalingSeries, draw_scaling
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
"""Phases as they are drawn, and what `our_ppo` calls their parts."""

_BASE = Settings(episodes=64, rollout=32, ppo_epochs=1, micro_batch=16)
SWEEPS: dict[str, list[tuple[float, str, Settings]]] = {
    "response tokens": [(n, "2M", replace(_BASE, response_tokens=n)) for n in (16, 32, 64, 128, 256, 512)],
    "episodes a rollout": [(n, "2M", replace(_BASE, episodes=2 * n, rollout=n)) for n in (16, 32, 64, 128, 256)],
    "parameters": [(0.0, name, _BASE) for name in ("0.3M", "2M", "8M", "20M")],
}
"""By what is varied: its value (0: the model's size, which the run tells), the models, the settings."""


@dataclass(frozen=True)
class Point:
    """One size: what its second update took, phase by phase."""

    session: str
    sweep: str
    x: float
    models: str
    settings: Settings
    dtype: str
    seconds: dict[str, float]
    tokens_per_s: dict[str, float]
    others_cores: float
    quiet: bool
    when: str
    commit: str
    machine: str


def main() -> None:
    options = _options()
    try:
        _scale(options)
    except (quiet.BusyError, RunFailedError) as error:
        sys.exit(f"bench-scaling: {error}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--patience", type=float, default=300.0)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--fresh", action="store_true", help="use no point of an earlier call")
    return parser.parse_args()


def _scale(options: argparse.Namespace) -> None:
    fingerprint = records.fingerprint(SWEEPS, options.dtype, options.threads)
    session = records.current_session(RESULTS, fingerprint, options.fresh)
    done = {(row["sweep"], json.dumps(row["settings"]), row["models"]) for row in _rows(session)}
    for sweep, sizes in SWEEPS.items():
        for x, models, settings in sizes:
            settings = replace(settings, threads=options.threads)
            if (sweep, json.dumps(asdict(settings)), models) not in done:
                records.append(RESULTS, _point(session, sweep, x, models, settings, options))
    report(_rows(session))


def _rows(session: str) -> list[Result]:
    return [row for row in records.read_rows(RESULTS) if row["session"] == session]


def _point(session: str, sweep: str, x: float, models: str, settings: Settings, options: argparse.Namespace) -> Point:
    made = made_elsewhere(models)
    is_quiet = quiet_or_allowed(options.patience, options.busy)
    flags = [*made.flags(), *settings.flags(), "--dtype", options.dtype, "--warmup-updates", "1"]
    name = f"{sweep} {x:g}, {models}"
    timed = run_side(sys.executable, "benchmarks.our_ppo", flags, settings.threads, name)
    seconds = by_kind(timed.result["seconds"]) | {"all": timed.result["wall_s"]}
    tokens = settings.rollout * settings.response_tokens
    return Point(
        session=session,
        sweep=sweep,
        x=x or timed.result["parameters"],
        models=models,
        settings=settings,
        dtype=options.dtype,
        seconds=seconds,
        tokens_per_s={kind: round(tokens / took, 1) for kind, took in seconds.items()},
        others_cores=timed.others_cores,
        quiet=is_quiet,
        when=records.now(),
        commit=records.commit(),
        machine=records.machine(),
    )


def by_kind(phases: Mapping[str, float]) -> dict[str, float]:
    """Seconds of the phases that are drawn."""
    return {kind: sum(phases.get(name, 0.0) for name in names) for kind, names in KINDS.items()}


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of log y against log x by least squares over the three largest sizes, where fixed costs matter least."""
    slope, _ = np.polyfit(np.log(x[-3:]), np.log(y[-3:]), 1)
    return float(slope)


def report(rows: Sequence[Result]) -> None:
    """Print a JSON line a sweep, draw the figure, write the README's part."""
    series: dict[str, ScalingSeries] = {}
    table: list[list[str]] = []
    for sweep in SWEEPS:
        points = sorted((row for row in rows if row["sweep"] == sweep), key=lambda row: float(row["x"]))
        flops = [update_flops(SHAPES[p["models"]], Settings(**p["settings"])) for p in points]
        line = summarize(sweep, points, flops)
        print(json.dumps(line), flush=True)
        found = f"grows as x^{line['exponent']:.2f}, the arithmetic as x^{line['arithmetic_exponent']:.2f}"
        phases = {kind: [p["seconds"][kind] for p in points] for kind in ("all", *KINDS)}
        series[sweep] = ([p["x"] for p in points], phases, [f.all for f in flops], found)
        table += [_table_row(sweep, p) for p in points]
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    draw_scaling(series, PICTURE)
    readme.write_part("scaling", part(rows, table))


def part(rows: Sequence[Result], table: Sequence[Sequence[str]]) -> str:
    """The README's part on scaling."""
    header = ["what varies", "x", *(f"{kind}, s" for kind in (*KINDS, "all"))]
    header += ["generation, tokens/s", "training, tokens/s"]
    last, noise = rows[-1], "a quiet machine" if all(row["quiet"] for row in rows) else "**a busy machine**"
    lead = (
        "Seconds of one update (1 PPO epoch, prompts of 24 to 32 tokens); tokens are response tokens. "
        f"{last['dtype']}, {last['settings']['threads']} threads, {last['when']} UTC, commit {last['commit']}, "
        f"{last['machine']}, {noise}."
    )
    return "\n\n".join(
        [lead, readme.table(header, table, right=range(1, len(header))), "![Scaling](pictures/scaling.png)"]
    )


def summarize(sweep: str, points: Sequence[Result], flops: Sequence[Flops]) -> Result:
    """The exponents of one sweep, of the whole update and by phase, beside the arithmetic's."""
    x = [float(point["x"]) for point in points]
    kinds = ("all", *KINDS)
    measured = {kind: exponent(x, [p["seconds"][kind] for p in points]) for kind in kinds}
    counted = {kind: exponent(x, [getattr(one, kind) for one in flops]) for kind in kinds}
    return {
        "case": f"scaling: {sweep}",
        "x": x,
        "seconds": [p["seconds"]["all"] for p in points],
        "gflop_per_s": [round(f.all / p["seconds"]["all"] / 1e9, 1) for f, p in zip(flops, points, strict=True)],
        "exponent": round(measured["all"], 3),
        "arithmetic_exponent": round(counted["all"], 3),
        "by_phase": {kind: [round(measured[kind], 3), round(counted[kind], 3)] for kind in KINDS},
    }


def _table_row(sweep: str, point: Result) -> list[str]:
    seconds, speed = point["seconds"], point["tokens_per_s"]
    shown = [f"{seconds[kind]:.2f}" for kind in (*KINDS, "all")]
    return [sweep, f"{point['x']:,.0f}", *shown, f"{speed['generation']:,.0f}", f"{speed['training']:,.0f}"]


if __name__ == "__main__":
    main()

"""Does the report name the update at which over-optimization began, and is the chosen checkpoint a good one?

    python -m benchmarks.overoptimization                     # both recipes, five seeds: hours on two cores
    python -m benchmarks.overoptimization overoptimize --seeds 7

The demo, and the demo without a KL penalty and four times as long (configs/overoptimize.yaml). A run says by proxy and
selection scores alone where it turned, and chooses its checkpoint by them; the gold rule, which nothing in a run reads
before its evaluation, is the check. Where gold turned is found by the same test, of gold reward on the same prompts.
Only results are measured, no times, so the machine may be busy. A recipe and seed that is done is not run
again, but for --fresh. Seeds 0 and 1 are for tuning, and none of the results.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.plan import make_project, rlhf
from benchmarks.readme import table, write_part
from benchmarks.records import RESULTS, measure_missing
from rlhf.paths import in_project
from rlhf.references import EvaluationRef
from rlhf.tracking.artifacts import local_path, output_of

FILE = RESULTS / "overoptimization.json"
RECIPES = ("demo", "overoptimize")
SEEDS, TUNED_ON = (7, 11, 23, 31, 47), (0, 1)
NEAR, LEAST_SHARE, LEAST_RIGHT = 0.25, 0.9, 0.8
"""Targets: the named update within 25% of where gold turned in four of five seeds, and nothing named where gold never
turned; and 90% of the best checkpoint's gold gain at the chosen one, in the mean over the demo's seeds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help=f"{', '.join(RECIPES)} [default: both]")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="[default: %(default)s]")
    parser.add_argument("--project", type=Path, help="folder that keeps the runs [default: a temporary one]")
    parser.add_argument("--fresh", action="store_true", help="run again what is done")
    options = parser.parse_args()
    if unknown := set(options.recipes) - set(RECIPES):
        parser.error(f"there is no recipe {min(unknown)}; there are {', '.join(RECIPES)}")
    with tempfile.TemporaryDirectory(prefix="rlhf-overoptimization-") as folder:
        root = (options.project or Path(folder) / "project").resolve()
        if not root.exists():
            make_project(root)
        cells = [(recipe, seed) for seed in map(int, options.seeds.split(",")) for recipe in options.recipes or RECIPES]
        rows = measure_missing(FILE, cells, partial(measure, root), fresh=options.fresh)
    write_part("overoptimization", part(rows))
    print(part(rows))


def measure(root: Path, recipe: str, seed: int) -> dict[str, Any]:
    """Run a recipe, and read what it reported."""
    report = json.loads(rlhf(root, "run", f"configs/{recipe}.yaml", "--seed", str(seed), "--json"))
    with in_project(root):
        output = local_path(output_of(report["run_id"], "evaluation", EvaluationRef)[0])
    found = json.loads((output / "evaluation.json").read_text(encoding="utf-8"))["overoptimization"]
    points = json.loads((output / "curve.json").read_text(encoding="utf-8"))["points"]
    best_of_n = found["best_of_n"]
    return {
        "recipe": recipe,
        "seed": seed,
        "turn": found["turn"],
        "gold_turn": found["gold_turn"],
        "fits": found["fits"],
        "updates": [point["update"] for point in points],
        "chosen_update": next(point["update"] for point in points if point["chosen"]),
        **{name: [point[name]["value"] for point in points] for name in ("kl", "score", "selection_score", "gold")},
        "best_of_n": best_of_n and _largest_best_of_n(best_of_n, report["metrics"]),
        "sentences": found["sentences"],
    }


def _largest_best_of_n(best_of_n: Mapping[str, Any], metrics: Mapping[str, float]) -> dict[str, Any]:
    last = best_of_n["points"][-1]
    kept = {name: last["values"][name]["value"] for name in ("selection_score", "gold")}
    return kept | {"n": last["num_samples"], "kl": last["kl"], "seconds": metrics["evaluation/best_of_n_seconds"]}


def says_the_truth(row: Mapping[str, Any]) -> bool:
    """The named update is near where gold turned; or none is named where gold did not turn."""
    turns = (row["turn"], row["gold_turn"])
    named, truth = (turn["update"] if turn["state"] == "over_optimized" else None for turn in turns)
    if named is None or truth is None:
        return named is truth
    return bool(abs(named - truth) <= NEAR * truth)


def share_of_best(row: Mapping[str, Any]) -> float:
    """Gold gain of the chosen checkpoint over SFT, as a share of the best checkpoint's."""
    gold = row["gold"]
    best = max(gold) - gold[0]
    return float((gold[row["updates"].index(row["chosen_update"])] - gold[0]) / best) if best > 0 else 1.0


def part(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, by recipe and seed, and what became of the targets."""
    reported = [row for row in rows.values() if row["seed"] not in TUNED_ON]
    ordered = sorted(reported, key=lambda row: (row["recipe"], row["seed"]))
    header = ["recipe, seed", "named update (95%)", "gold turned (95%)", "right", "chosen"]
    header += ["gold: SFT", "chosen", "best", "last"]
    header += ["share of the best gain", "sqrt(KL) at the end", "peak of the selection score's fit"]
    lines = table(header, [_cells(row) for row in ordered], right=range(4, 11))
    text = [lines, *_verdicts(ordered)]
    if ordered:
        text.append(f"{ordered[-1]['when']} UTC, commit {ordered[-1]['commit']}, {ordered[-1]['machine']}.")
    return "\n\n".join(text)


def _cells(row: Mapping[str, Any]) -> list[str]:
    gold, peak = row["gold"], row["fits"]["selection_score"]
    chosen = gold[row["updates"].index(row["chosen_update"])]
    seen = "not seen"
    if peak is not None and peak["peak_seen"]:
        seen = "{value:.2f} ({low:.2f} to {high:.2f})".format(**peak["peak"])
    return [
        f"{row['recipe']}, {row['seed']}",
        _turned(row["turn"]),
        _turned(row["gold_turn"]),
        "yes" if says_the_truth(row) else "**no**",
        str(row["chosen_update"]),
        *(f"{value:.3f}" for value in (gold[0], chosen, max(gold), gold[-1])),
        f"{share_of_best(row):.0%}",
        f"{max(row['kl'][-1], 0) ** 0.5:.2f}",
        seen,
    ]


def _turned(turn: Mapping[str, Any]) -> str:
    if turn["state"] != "over_optimized":
        return {"none": "did not turn", "fell": "fell with the score", "unknown": "not known"}[turn["state"]]
    return f"{turn['update']} ({turn['earliest']} to {turn['latest']})"


def _verdicts(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    of_recipe = {recipe: [row for row in rows if row["recipe"] == recipe] for recipe in RECIPES}
    if long := of_recipe["overoptimize"]:
        right = sum(map(says_the_truth, long))
        yield (
            f"`overoptimize`: the named update is within {NEAR:.0%} of where gold turned, or none is named where gold "
            f"did not turn, in {right} of {len(long)} seeds (target four of five: "
            f"{_met(right >= LEAST_RIGHT * len(long))})."
        )
    if demo := of_recipe["demo"]:
        shares = [share_of_best(row) for row in demo]
        yield (
            f"`demo`: the chosen checkpoint has {np.mean(shares):.0%} of the best checkpoint's gold gain over SFT, in "
            f"the mean of {len(demo)} seeds (target {LEAST_SHARE:.0%}: {_met(np.mean(shares) >= LEAST_SHARE)}); "
            f"over-optimization is named in {sum(row['turn']['state'] == 'over_optimized' for row in demo)} of them."
        )


def _met(is_met: bool | np.bool_) -> str:
    return "met" if is_met else "**missed**"


if __name__ == "__main__":
    main()

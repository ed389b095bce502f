"""What the runs of the optimum benchmark say: a JSON line a cell, the table, the figure, and README.md's one figure."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import readme, records
from benchmarks.closed_form import NUM_TOKENS
from benchmarks.optimum_runs import (
    CURVE_STEP,
    FULL,
    GROUP_SIZE,
    KL_COEF,
    LEARNING_RATES,
    LORA,
    TUNING_SEEDS,
    VALUE_CLIP_RANGE,
    VALUE_LEARNING_RATE,
    Case,
    config_of,
    num_policy_steps,
)
from rlhf.config.rl import ROLLOUT_METHODS

_PICTURES = records.ROOT / "benchmarks" / "pictures"
_KINDS = ("method", "ppo")
"""Of rows that are no ascent; `ppo` in older ones."""
CLAIM = re.compile(r"reaches (\d+)% of an optimum that is known in closed form")
BELOW_CEILING, LEAST, MOST_WITH_FAULT = 0.02, 0.95, 0.75
MEANS = {"rloo-kl-in-reward": 0.975, "dr_grpo-kl-in-reward": 0.975, "grpo-kl-in-reward": 0.965}
"""Least mean share of the methods without a critic; with the KL in the loss, and of online DPO, it is reported only."""
MEAN_WITH_FAULT = 0.90
"""Mean share that a method without a critic must not reach with a planted fault."""

METHODS_WITHOUT_CRITIC = tuple(name for name, method in ROLLOUT_METHODS.items() if not method.has_critic)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """The seeds of one case.

    Attributes:
        rows: a run each, in the order of the seeds.
    """

    rows: Sequence[Row]

    @property
    def name(self) -> str:
        """The case."""
        return str(self.rows[0]["case"])

    @property
    def refused(self) -> list[str]:
        """Alarms that refused to start a run."""
        return [str(row["refused"]) for row in self.rows if row["refused"]]

    @property
    def met(self) -> bool:
        """Whether the cell is where it must be; with a planted fault: whether the fault shows."""
        if len(self.refused) == len(self.rows):
            return bool(self.rows[0]["fault"])
        if self.refused:
            return False
        if self.name.startswith(METHODS_WITHOUT_CRITIC):
            if self.rows[0]["fault"]:
                return bool(self.mean("share") < MEAN_WITH_FAULT)
            return self.mean("share") >= MEANS.get(self.name, -math.inf)
        if self.rows[0]["fault"]:
            return bool(max(self._all("share")) < MOST_WITH_FAULT)
        return self.mean("share") >= self.mean("ceiling") - BELOW_CEILING and min(self._all("share")) >= LEAST

    @property
    def has_target(self) -> bool:
        """The share of methods whose papers' form has another fixed point is only reported."""
        return bool(self.rows[0]["fault"]) or not self.name.startswith(METHODS_WITHOUT_CRITIC) or self.name in MEANS

    def mean(self, name: str) -> float:
        """Over the seeds."""
        return fmean(self._all(name))

    def line(self) -> dict[str, Any]:
        """The JSON line."""
        line: dict[str, Any] = {"case": self.name, "seeds": len(self.rows), "met": self.met}
        if self.refused:
            return line | {"refused": self.refused}
        kls = list(zip(*self._all("kl_to_optimum"), strict=True))
        return line | {
            "share": round(self.mean("share"), 4),
            "lowest": round(min(self._all("share")), 4),
            "highest": round(max(self._all("share")), 4),
            "kl_to_optimum": [round(fmean(kl), 4) for kl in kls],
            "ceiling": round(self.mean("ceiling"), 4),
            "seconds": round(self.mean("seconds"), 1),
        }

    def _all(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]


def cells(rows: Sequence[Row]) -> list[Cell]:
    """Runs of methods by case, in the order in which the cases are defined."""
    runs = [row for row in rows if row["kind"] in _KINDS]
    names = dict.fromkeys(row["case"] for row in sorted(runs, key=_order))
    by_case = {name: [row for row in runs if row["case"] == name] for name in names}
    return [Cell(sorted(found, key=lambda row: int(row["seed"]))) for found in by_case.values()]


def report(name: str, rows: Sequence[Row]) -> None:
    """Print the JSON lines, write the README's part, and for PPO draw the figure and write the figure in README.md."""
    from benchmarks.figures import draw_optimum

    found = cells(rows)
    print_lines(rows)
    if name != "optimum":
        readme.write_part(name, part_of_methods(rows))
        return
    _PICTURES.mkdir(parents=True, exist_ok=True)
    draw_optimum([cell.rows for cell in found], FULL.num_updates, CURVE_STEP, _PICTURES / "optimum.png")
    readme.write_part(name, part(rows))
    write_claim(claimed_percent(found))


def print_lines(rows: Sequence[Row], *, quick: bool = False) -> None:
    """A JSON line a cell."""
    for cell in cells(rows):
        print(json.dumps(({"quick": True} if quick else {}) | cell.line()), flush=True)


def claimed_percent(found: Sequence[Cell]) -> int:
    """What README.md says: the mean share of the worst cell without a fault, in whole percent, rounded down."""
    return math.floor(100 * min(cell.mean("share") for cell in found if not cell.rows[0]["fault"]))


def write_claim(percent: int, path: Path = records.ROOT / "README.md") -> None:
    """Put the figure into README.md's sentence.

    Raises:
        ValueError: the sentence is not there.
    """
    text = path.read_text(encoding="utf-8")
    if not CLAIM.search(text):
        raise ValueError(f"{path} does not say {CLAIM.pattern!r}; put the sentence back")
    new = f"reaches {percent}% of an optimum that is known in closed form"
    path.write_text(CLAIM.sub(new, text), encoding="utf-8")


def part(rows: Sequence[Row]) -> str:
    """The README's part: cells, faults, and what was looked at on the way."""
    found = cells(rows)
    sound, faulty = ([cell for cell in found if bool(cell.rows[0]["fault"]) == fault] for fault in (False, True))
    parts = [
        _lead(sound, rows),
        _table(sound, "lowest", "target"),
        "Planted faults, with the same budget:",
        _table(faulty, "highest", f"every seed below {MOST_WITH_FAULT:.0%}"),
        "\n".join(f"- {point}" for point in _points(sound)),
        "![Share of what can be won](pictures/optimum.png)",
    ]
    return "\n\n".join(parts)


def part_of_methods(rows: Sequence[Row]) -> str:
    """The README's part of the methods without a critic."""
    found = cells(rows)
    sound, faulty = ([cell for cell in found if bool(cell.rows[0]["fault"]) == fault] for fault in (False, True))
    targets = ", ".join(f"`{name}` {share:.1%}" for name, share in MEANS.items())
    return "\n\n".join(
        [
            _lead(sound, rows),
            _table(sound, "lowest", "target of the mean"),
            f"{GROUP_SIZE} responses to a prompt. Least means: {targets}; the others are reported. With the KL (k3) in "
            "the loss the gradient is not the KL's, and online DPO learns from the order of the best and the worst "
            "alone, so they come to rest elsewhere.",
            "Planted faults, with the same budget and the KL in the reward: a response has the advantage of the one "
            "before it in its group, the KL is rewarded, EOS is left out of the loss.",
            _table(faulty, "highest", f"mean below {MEAN_WITH_FAULT:.0%}"),
        ]
    )


def _lead(sound: Sequence[Cell], rows: Sequence[Row]) -> str:
    last, minutes = rows[-1], sum(row["seconds"] for row in rows) / 60
    return (
        f"{len(sound[0].rows)} seeds a cell, each another world; {FULL.num_updates} updates of {FULL.rollout_size} "
        f"episodes, kl_coef {KL_COEF:g}. {minutes:.0f} minutes of one core in all. {last['when']} UTC, commit "
        f"{last['commit']}, {last['machine']}."
    )


def _table(found: Sequence[Cell], worst: str, target: str) -> str:
    header = ["cell", "share", f"{worst} seed", "ceiling", "KL to the optimum, start", "end", "s a run", target]
    return readme.table(header, [_cells_of(cell, worst) for cell in found], right=range(1, 7))


def _cells_of(cell: Cell, worst: str) -> list[str]:
    verdict = ("met" if cell.met else "**missed**") if cell.has_target else "none"
    if cell.refused:
        return [f"`{cell.name}`", f"refused by `{cell.refused[0]}`", "", "", "", "", "", verdict]
    line = cell.line()
    start, end = line["kl_to_optimum"]
    shares = [f"{line[name]:.1%}" for name in ("share", worst, "ceiling")]
    return [f"`{cell.name}`", *shares, f"{start:.2f}", f"{end:.3f}", f"{line['seconds']:.0f}", verdict]


def _points(sound: Sequence[Cell]) -> list[str]:
    rates = ", ".join(f"{rate:g} with sharing `{sharing}`" for sharing, rate in LEARNING_RATES.items())
    steps = num_policy_steps(config_of(Case("fp32", "none", 1.0)))
    runs = [row for cell in sound for row in cell.rows if not row["refused"]]
    return [
        f"Share: (J - J of the reference) / (J* - J of the reference), of all responses of up to {NUM_TOKENS} tokens, "
        "not of samples. KL to the optimum: nats a response.",
        f"Ceiling: exact gradient ascent on J in fp32, of the same weights (the adapters' alone where there are any) "
        f"by the same optimizer, learning rate and schedule, in as many steps ({steps:,}) as PPO's policy takes. "
        f"Target: the mean is at least the ceiling's less {BELOW_CEILING:g}, and no seed is below {LEAST:.0%}.",
        f"Learning rates: {rates}, {VALUE_LEARNING_RATE:g} for value models, whose clip range is {VALUE_CLIP_RANGE:g}; "
        f"adapters of rank {LORA.rank}, alpha {LORA.alpha:g}. They and the budget were chosen on the seeds "
        f"{', '.join(map(str, TUNING_SEEDS))}, which are not reported.",
        f"Logged figures beside the exact expectations: {_surprises(runs, 'score')}, and {_surprises(runs, 'kl')}; "
        "without a bias 4.6% are beyond 2.",
    ]


def _surprises(runs: Sequence[Row], name: str) -> str:
    num, beyond = (sum(run[name][of] for run in runs) for of in ("num", "beyond"))
    mean = sum(run[name]["mean"] * run[name]["num"] for run in runs) / num
    return (
        f"`policy/{name}_mean` is more than 2 standard errors off in {beyond:,} of {num:,} updates "
        f"({beyond / num:.1%}), on average {mean:+.3f} standard errors (95% of a mean of so many: "
        f"{1.96 / math.sqrt(num):.3f})"
    )


def _order(row: Row) -> tuple[bool, int, int, float]:
    dtypes, sharings = ("fp32", "bf16"), ("none", "trunk", "adapters")
    return bool(row["fault"]), dtypes.index(row["dtype"]), sharings.index(row["sharing"]), -float(row["temperature"])

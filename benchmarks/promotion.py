"""How often nightly retraining promotes by mistake, and how soon it promotes what is better. No model is trained.

Nights are made up, the decision is the real one: what `rlhf.retraining.gates.apply_gates` says of per-prompt figures at
the level that the night's comparison may take. A year is 250 nights with one champion and a candidate without gain each
night; a repetition is ten nights with candidates whose true gain is twice its standard error. All nights of a year have
the same gate prompts, and part of what a prompt gives is the same every night (`shared`, a share of the variance).
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.readme import table, write_part
from benchmarks.records import commit
from rlhf.config.retrain import RetrainConfig
from rlhf.evaluation.bounds import level_of
from rlhf.evaluation.statistics import share_interval
from rlhf.retraining.gates import GateInputs, apply_gates

RATE = RetrainConfig().false_promotion_rate
YEAR, TEN_NIGHTS = 250, 10
GAIN = 2.0
"""Of a candidate that is better, in standard errors of its mean gain."""
GATES = RetrainConfig(maximum_kl=None, maximum_length_growth=None)
Levels = Callable[[int, float], float]


@dataclass(frozen=True)
class Night:
    """What the gains of a night are made of.

    Attributes:
        shared: share of the variance of a prompt's gain that is the same every night.
        ties: share of the prompts that both answer alike.
        heavy: gains are Laplace distributed; otherwise normal.
        num_judges: selection models that judge; their errors have a correlation of 0.8.
        num_prompts: gate prompts.
    """

    shared: float = 0.1
    ties: float = 0.0
    heavy: bool = False
    num_judges: int = 1
    num_prompts: int = 200


CASES = {
    "base": Night(),
    "nothing is shared between nights": Night(shared=0.0),
    "a quarter is shared": Night(shared=0.25),
    "half is shared": Night(shared=0.5),
    "30% ties": Night(ties=0.3),
    "heavy tails": Night(heavy=True),
    "two judges": Night(num_judges=2),
    "60 prompts": Night(num_prompts=60),
}
SEQUENCES: Mapping[str, Levels] = {
    "2 / ((k + 1) (k + 2))": level_of,
    "6 / (pi k)^2": lambda k, rate: rate * 6 / (np.pi * k) ** 2,
    "1 / (k + 1) log^2 (k + 1)": lambda k, rate: rate / (2.1097 * (k + 1) * np.log(k + 1) ** 2),
    "1/250 each": lambda k, rate: rate / YEAR if k <= YEAR else 0.0,
    "no spending": lambda k, rate: rate,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200, help="years, and repetitions of ten nights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-write", action="store_true", help="leave benchmarks/README.md as it is")
    options = parser.parse_args(arguments)
    rows = []
    for row in measure(options.repetitions, options.seed):
        print(json.dumps(row), flush=True)
        rows.append(row)
    if not options.no_write:
        write_part("promotion", part(rows))


def measure(repetitions: int, seed: int) -> Iterator[dict[str, Any]]:
    """A line a case with the sequence that is used, then a line a sequence in the base case."""
    used = next(iter(SEQUENCES))
    for case, night in CASES.items():
        yield _line(case, used, night, repetitions, seed)
    for sequence in list(SEQUENCES)[1:]:
        yield _line("base", sequence, CASES["base"], repetitions, seed)


def _line(case: str, sequence: str, night: Night, repetitions: int, seed: int) -> dict[str, Any]:
    levels = SEQUENCES[sequence]
    return {
        "case": case,
        "sequence": sequence,
        "repetitions": repetitions,
        "years_with_promotion": count_promoted(night, levels, 0.0, YEAR, repetitions, seed),
        "promoted_in_ten_nights": count_promoted(night, levels, GAIN, TEN_NIGHTS, repetitions, seed),
        "first_level": levels(1, RATE),
        "last_level": levels(YEAR, RATE),
        "commit": commit(),
    }


def count_promoted(night: Night, levels: Levels, gain: float, num_nights: int, repetitions: int, seed: int) -> int:
    """Repetitions in which any candidate passes the gates.

    Args:
        night: what gains are made of.
        levels: of the first, second, ... comparison, at a rate.
        gain: true mean gain of each candidate, in standard errors of its mean.
        num_nights: of a repetition.
        repetitions: how many.
        seed: of the gains.
    """
    seeds = np.random.SeedSequence(seed).spawn(repetitions)
    return sum(any(_promotions(night, levels, gain, num_nights, np.random.default_rng(one))) for one in seeds)


def _promotions(night: Night, levels: Levels, gain: float, num_nights: int, rng: np.random.Generator) -> Iterator[bool]:
    prompts = [str(number) for number in range(night.num_prompts)]
    same = _noise(night, rng)
    for number in range(1, num_nights + 1):
        level = levels(number, RATE)
        if level > 0:
            verdicts = apply_gates(GATES, _figures(night, prompts, same, gain, rng), level)
            yield all(verdict.held for verdict in verdicts)


def _figures(
    night: Night, prompts: Sequence[str], same: NDArray[np.float64], gain: float, rng: np.random.Generator
) -> GateInputs:
    """Gains by each judge: noise of a variance of 1, shifted, and 0 where both answer alike."""
    differs = rng.random(night.num_prompts) >= night.ties
    shift = gain / ((1 - night.ties) * night.num_prompts) ** 0.5
    noise = np.sqrt(night.shared) * same + np.sqrt(1 - night.shared) * _noise(night, rng)
    of_judges = noise if night.num_judges == 1 else np.sqrt(0.8) * noise[:1] + np.sqrt(0.2) * noise[1:]
    gains = {f"judge {number}": np.where(differs, shift + row, 0.0).tolist() for number, row in enumerate(of_judges)}
    nothing = [1.0] * night.num_prompts
    return GateInputs(prompts, gains, nothing, nothing, nothing, {})


def _noise(night: Night, rng: np.random.Generator) -> NDArray[np.float64]:
    """Of variance 1: a row, or one that judges have in common and one for each."""
    shape = (1 if night.num_judges == 1 else 1 + night.num_judges, night.num_prompts)
    return rng.laplace(scale=0.5**0.5, size=shape) if night.heavy else rng.normal(size=shape)


def part(rows: Sequence[Mapping[str, Any]]) -> str:
    """Both tables."""
    used = rows[0]["sequence"]
    repetitions = rows[0]["repetitions"]
    cases = [
        [row["case"], _percent(row, "years_with_promotion"), _percent(row, "promoted_in_ten_nights")]
        for row in rows
        if row["sequence"] == used
    ]
    sequences = [
        [
            f"`{row['sequence']}`",
            _percent(row, "years_with_promotion"),
            _percent(row, "promoted_in_ten_nights"),
            f"{row['first_level']:.2g}",
            f"{row['last_level']:.2g}",
        ]
        for row in rows
        if row["case"] == "base"
    ]
    base = rows[0]
    met = {
        "at most 5%": base["years_with_promotion"] <= RATE * repetitions,
        "at least 80%": base["promoted_in_ten_nights"] >= 0.8 * repetitions,
    }
    targets = ", ".join(f"{target}: {'met' if is_met else '**missed**'}" for target, is_met in met.items())
    return "\n\n".join(
        [
            f"{repetitions} years of {YEAR} nights without gain, and {repetitions} times ten nights with a gain of "
            f"{GAIN:g} standard errors, with 95% intervals. Targets, of the base case: {targets}. Commit "
            f"{base['commit']}.",
            table(["nights", "years with a promotion", "promoted within ten nights"], cases, right=(1, 2)),
            "Other sequences of levels, base case; the first comparison's level and the 250th's:",
            table(
                ["share of the rate", "years with a promotion", "promoted within ten nights", "first", "250th"],
                sequences,
                right=(1, 2, 3, 4),
            ),
        ]
    )


def _percent(row: Mapping[str, Any], name: str) -> str:
    share = share_interval([1.0] * row[name] + [0.0] * (row["repetitions"] - row[name]))
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"


if __name__ == "__main__":
    main()

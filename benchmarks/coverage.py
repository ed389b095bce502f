"""`make bench-coverage`: how often the intervals that this project prints hold the truth, on simulated data.

A case draws rows of prompts whose true figure is known, asks the function that the stages call, and counts. Rows of one
prompt are alike to a stated degree: the intra-prompt correlation. Two-sided intervals of 95% must hold the truth in 93
to 97% of the repetitions, one-sided bounds of 95% in at least 94%. Each cell is a JSON line; a cell that this code has
measured already is not measured again.

    python -m benchmarks.coverage [--repetitions 2000] [--only share]
"""

import argparse
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import readme, records
from rlhf.evaluation import bounds
from rlhf.evaluation.calibration import calibration
from rlhf.evaluation.learning_curve import SHARES, learning_curve
from rlhf.evaluation.scaling_law import POLICY_GRADIENT, fit_policy_gradient
from rlhf.evaluation.statistics import Estimate, group_contrast, mean_interval, paired_bootstrap, share_interval
from rlhf.evaluation.temperature import NoTemperatureError, temperature_interval

RESULTS = records.RESULTS / "coverage.jsonl"
PROMPTS = (10, 30, 100, 500)
"""Those from 30 on have a target; 10 shows what is left of it below."""
MOST_ROWS = 30
TWO_SIDED, ONE_SIDED = (0.93, 0.97), 0.94
_RESAMPLES = 1000
_NUM_BINS = 10
_TYPICAL = 1.5
"""Standard deviation of a calibrated model's margins."""

Values = NDArray[np.float64]
Keys = Sequence[int]
Rng = np.random.Generator
Interval = Callable[[Values, Keys | None], Estimate]
Draw = Callable[[Rng, NDArray[np.intp]], Values]
"""Values of rows, [N], by the prompt of each, [N]."""


@dataclass(frozen=True)
class Case:
    """What is drawn, and which interval is asked for.

    Attributes:
        name: for people, and decides the draws.
        kind: share, mean, difference, temperature or gain; bound where it may be too wide, but not too narrow.
        truth: what the interval must hold.
        draw: makes the values.
        interval: the function under test.
        alone: also measured with one row per prompt, where the intra-prompt correlation makes no difference.
    """

    name: str
    kind: str
    truth: float
    draw: Draw
    interval: Interval
    alone: bool = False


@dataclass(frozen=True)
class Cell:
    """One case with one number of prompts.

    Attributes:
        session: changes with the code that is measured.
        most_rows: rows per prompt are uniform from 1 to this.
        coverage: share of the repetitions whose interval holds the truth.
        below: share whose interval lies below the truth.
        above: share whose interval lies above it.
        width: mean width.
    """

    session: str
    case: str
    kind: str
    prompts: int
    most_rows: int
    repetitions: int
    coverage: float
    below: float
    above: float
    width: float
    when: str
    commit: str


def cases() -> list[Case]:
    """All of them."""
    return [*_shares(), *_means(), *_differences(), *_bounds(), *_audits(), *_peaks()]


def measure(case: Case, prompts: int, most_rows: int, repetitions: int) -> tuple[float, float, float, float]:
    """Coverage, misses below and above the truth, and the mean width."""
    rng = np.random.default_rng([zlib.crc32(case.name.encode()), prompts, most_rows])
    ends = []
    for _ in range(repetitions):
        keys = np.repeat(np.arange(prompts), rng.integers(1, most_rows + 1, prompts))
        found = case.interval(case.draw(rng, keys), keys.tolist() if most_rows > 1 else None)
        ends.append((found.low, found.high))
    low, high = np.array(ends).T
    below, above = float((high < case.truth).mean()), float((low > case.truth).mean())
    return 1 - below - above, below, above, float((high - low).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--only", default="", help="cases whose names begin so")
    options = parser.parse_args()
    session = _session(options.repetitions)
    done = {(row["case"], row["prompts"], row["most_rows"]) for row in _rows(session)}
    for case, prompts, most_rows in _cells():
        if (case.name, prompts, most_rows) in done or not case.name.startswith(options.only):
            continue
        found = measure(case, prompts, most_rows, options.repetitions)
        coverage, below, above, width = (round(figure, 4) for figure in found)
        cell = Cell(
            session=session,
            case=case.name,
            kind=case.kind,
            prompts=prompts,
            most_rows=most_rows,
            repetitions=options.repetitions,
            coverage=coverage,
            below=below,
            above=above,
            width=width,
            when=records.now(),
            commit=records.commit(),
        )
        records.append(RESULTS, cell)
        print(json.dumps(asdict(cell)), flush=True)
    readme.write_part("coverage", part(_rows(session)))


def part(rows: Sequence[dict[str, Any]]) -> str:
    """The table of the README: a row per case, a column per number of prompts."""
    by_case: dict[tuple[str, int], dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_case.setdefault((row["case"], row["most_rows"]), {})[row["prompts"]] = row
    lines = [
        [name, "1" if most == 1 else f"1 to {most}", *(_shown(found.get(prompts)) for prompts in PROMPTS)]
        for (name, most), found in by_case.items()
    ]
    missed = [row for row in rows if row["prompts"] >= 30 and not _met(row)]
    text = (
        f"{rows[0]['repetitions']:,} repetitions per cell, whose own standard error is 0.5%; {len(missed)} of "
        f"{sum(row['prompts'] >= 30 for row in rows)} cells from 30 prompts on miss their target and are bold. "
        f"{rows[-1]['when']} UTC, commit {rows[-1]['commit']}."
    )
    header = ["case", "rows per prompt", *(f"{prompts} prompts" for prompts in PROMPTS)]
    return f"{text}\n\n{readme.table(header, lines, right=range(2, 2 + len(PROMPTS)))}"


def _shown(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    text = f"{row['coverage']:.1%}"
    return text if row["prompts"] < 30 or _met(row) else f"**{text}**"


def _met(row: dict[str, Any]) -> bool:
    if row["kind"] == "bound":
        return bool(row["coverage"] >= ONE_SIDED)
    return bool(TWO_SIDED[0] <= row["coverage"] <= TWO_SIDED[1])


def _cells() -> Iterator[tuple[Case, int, int]]:
    for case in cases():
        for most_rows in (1, MOST_ROWS) if case.alone else (MOST_ROWS,):
            for prompts in PROMPTS:
                yield case, prompts, most_rows


def _session(repetitions: int) -> str:
    digest = hashlib.sha256(str(repetitions).encode())
    names = ("statistics", "intervals", "bounds", "calibration", "temperature", "learning_curve", "scaling_law")
    measured = [records.ROOT / "rlhf" / "evaluation" / f"{name}.py" for name in names]
    for path in [*measured, Path(__file__)]:
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()[:12]


def _rows(session: str) -> list[dict[str, Any]]:
    return [row for row in records.read_rows(RESULTS) if row["session"] == session]


def _shares() -> Iterator[Case]:
    for rate in (0.5, 0.8, 0.9, 0.95):
        for alike in (0.0, 0.2, 0.6, 1.0):
            name = f"share {rate:g}, correlation {alike:g}"
            outcomes = {1.0: rate, 0.0: 1 - rate}
            yield Case(name, "share", rate, _outcomes(outcomes, alike), share_interval, alone=alike == 0)
    for wins, ties in ((0.3, 0.5), (0.475, 0.52)):
        for alike in (0.0, 0.3, 1.0):
            name = f"win rate of {wins:.1%} wins and {ties:.0%} ties, correlation {alike:g}"
            draw = _outcomes({1.0: wins, 0.5: ties, 0.0: 1 - wins - ties}, alike)
            yield Case(name, "share", wins + ties / 2, draw, share_interval, alone=alike == 0)


def _means() -> Iterator[Case]:
    shapes: dict[str, Callable[[Rng, int], Values]] = {
        "normal": lambda rng, size: rng.normal(size=size),
        "gamma of shape 4": lambda rng, size: (rng.gamma(4, size=size) - 4) / 2,
        "exponential": lambda rng, size: rng.exponential(size=size) - 1,
    }
    for shape, values in shapes.items():
        for alike in (0.0, 0.3, 1.0):
            name = f"mean of {shape} values, correlation {alike:g}"
            yield Case(name, "mean", 0.0, _mixed(values, alike), mean_interval, alone=alike == 0)


def _differences() -> Iterator[Case]:
    shapes: dict[str, Callable[[Rng, int], Values]] = {
        "normal": lambda rng, size: rng.normal(size=size),
        "gamma of shape 4": lambda rng, size: (rng.gamma(4, size=size) - 4) / 2,
        "three-valued": lambda rng, size: rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=size) - 0.2,
    }
    for shape, values in shapes.items():
        for alike in (0.0, 0.3, 1.0):
            name = f"paired {shape} differences, correlation {alike:g}"
            yield Case(name, "difference", 0.0, _mixed(values, alike), _bootstrap, alone=alike == 0)


def _bounds() -> Iterator[Case]:
    """One-sided bounds of the gates; the prompt is the unit there as well."""

    def unsafe(values: Values, keys: Keys | None) -> Estimate:
        flags = values if keys is None else bounds.any_by_prompt(values, keys)
        return Estimate(0.0, 0.0, bounds.share_upper_bound(int(flags.sum()), len(flags)))

    def mean(values: Values, keys: Keys | None) -> Estimate:
        return Estimate(0.0, bounds.mean_bound(_by_prompt(values, keys), upper=False), 1e9)

    def longer(values: Values, keys: Keys | None) -> Estimate:
        lengths = 20 * np.exp(_by_prompt(values, keys) / 2)
        return Estimate(0.0, 0.0, bounds.ratio_upper_bound(lengths, np.roll(lengths, 1)))

    def _by_prompt(values: Values, keys: Keys | None) -> Values:
        return values if keys is None else np.asarray(bounds.by_prompt(values, keys))

    for rate in (0.01, 0.05):
        draw = _outcomes({1.0: rate, 0.0: 1 - rate}, 1.0)
        yield Case(f"upper bound of unsafe prompts, {rate:.0%}", "bound", rate, draw, unsafe, alone=True)
    normal = _mixed(lambda rng, size: rng.normal(size=size), 1.0)
    yield Case("lower bound of a mean of normal values", "bound", 0.0, normal, mean, alone=True)
    yield Case("upper bound of a ratio of mean lengths", "bound", 1.0, normal, longer, alone=True)


def _audits() -> Iterator[Case]:
    """Of the reward-model audit: temperature, calibration error, shares of groups, the learning curve."""

    def temperature(values: Values, keys: Keys | None) -> Estimate:
        try:
            return temperature_interval(values, keys)
        except NoTemperatureError:
            return Estimate(0.0, 0.0, 1e9)

    def error(values: Values, keys: Keys | None) -> Estimate:
        return calibration(values, _NUM_BINS, 0, keys, num_draws=50).interval

    def groups(weights: Sequence[float], of_rows: Callable[[NDArray[np.intp]], NDArray[np.intp]]) -> Interval:
        def interval(values: Values, keys: Keys | None) -> Estimate:
            numbers = of_rows(np.arange(len(values)) if keys is None else np.asarray(keys))
            rows = [np.flatnonzero(numbers == number) for number in range(len(weights))]
            return group_contrast(values, rows, weights, keys)

        return interval

    def gain(values: Values, keys: Keys | None) -> Estimate:
        return learning_curve([100, 200, 400, 800], list(values.T), 0, keys, _RESAMPLES).gain

    for true in (1.0, 2.0):
        for alike in (0.0, 0.3):
            draw = _margins(true, alike)
            name = f"of margins {true:g} times as large as they should be, correlation {alike:g}"
            yield Case(f"temperature {name}", "temperature", true, draw, temperature, alone=alike == 0)
            yield Case(f"calibration error {name}", "bound", _true_error(true), draw, error, alone=alike == 0)
    for alike in (0.0, 0.3):
        end = f"correlation {alike:g}"
        shares = (0.95, 0.8, 0.6)
        of_groups = groups([1 / 3] * 3, _thirds)
        yield Case(
            f"mean of three shares, {end}", "share", sum(shares) / 3, _by_group(shares, _thirds, alike), of_groups
        )
        apart = groups([1, -1], lambda keys: keys % 2)
        draw = _by_group((0.9, 0.7), lambda keys: keys % 2, alike)
        yield Case(f"a share less another, {end}", "share", 0.2, draw, apart, alone=alike == 0)
    for name, floor, factor, exponent in (
        ("steep", 0.1, 0.2, 0.5),
        ("flat", 0.25, 0.02, 0.3),
        ("at its end", 0.2, 0.0, 1.0),
    ):
        accuracy = 1 - floor - factor * np.array(SHARES) ** -exponent
        truth = factor * (1 - 2**-exponent)
        for alike in (0.0, 0.3):
            draw = _of_models(accuracy, alike)
            yield Case(f"gain of a {name} learning curve, correlation {alike:g}", "gain", truth, draw, gain, alike == 0)


def _thirds(keys: NDArray[np.intp]) -> NDArray[np.intp]:
    """Three groups, of a half, a third and a sixth of the prompts."""
    return np.asarray(np.array([0, 0, 0, 1, 1, 2])[keys % 6])


def _margins(temperature: float, alike: float) -> Draw:
    """Margins that are right as often as they say once they are divided by the temperature."""

    def draw(rng: Rng, keys: NDArray[np.intp]) -> Values:
        from scipy.special import expit, ndtr

        size = _mixed(lambda rng, size: rng.normal(size=size), alike)(rng, keys)
        chance = ndtr(_mixed(lambda rng, size: rng.normal(size=size), alike)(rng, keys))
        size = _TYPICAL * np.abs(size)
        return np.asarray(temperature * np.where(chance < expit(size), size, -size))

    return draw


def _true_error(temperature: float) -> float:
    """The calibration error of `_margins` with as many pairs as one likes."""
    from scipy.special import expit, ndtri

    sizes = _TYPICAL * np.abs(ndtri((np.arange(200_000) + 0.5) / 200_000))
    confidence = expit(temperature * sizes)
    which = np.minimum(((confidence - 0.5) * 2 * _NUM_BINS).astype(int), _NUM_BINS - 1)
    return float(np.abs(np.bincount(which, confidence - expit(sizes))).sum() / len(sizes))


def _by_group(shares: Sequence[float], group: Callable[[NDArray[np.intp]], NDArray[np.intp]], alike: float) -> Draw:
    """Outcomes whose share hangs on the group of the prompt."""

    def draw(rng: Rng, keys: NDArray[np.intp]) -> Values:
        drawn = [_outcomes({1.0: share, 0.0: 1 - share}, alike)(rng, keys) for share in shares]
        return np.asarray(np.choose(group(keys), drawn))

    return draw


def _of_models(accuracy: Values, alike: float) -> Draw:
    """Outcomes of several models on the same rows, [N, K], of which a model's errors are mostly the others' as well."""

    def draw(rng: Rng, keys: NDArray[np.intp]) -> Values:
        from scipy.special import ndtri

        normal = _mixed(lambda rng, size: rng.normal(size=size), alike)
        shared = normal(rng, keys)
        own = np.stack([normal(rng, keys) for _ in accuracy], axis=1)
        return np.asarray((0.8**0.5 * shared[:, None] + 0.2**0.5 * own < ndtri(accuracy)).astype(float))

    return draw


def _peaks() -> Iterator[Case]:
    """The distance at which a score peaks, by a form fitted to its values at twelve distances, [N, 2, 13]: KL, score.

    The rows of a prompt share half of their noise, which hits KL and score.
    """
    distances = np.linspace(0, 3, 13)

    def draw(rng: Rng, keys: NDArray[np.intp]) -> Values:
        size = int(keys[-1]) + 1
        kl = distances**2 * rng.gamma(4, 0.25, size=(size, 1))[keys] * rng.gamma(4, 0.25, size=(len(keys), 1))
        noise = [rng.normal(size=(number, len(distances))) for number in (size, len(keys))]
        score = POLICY_GRADIENT.gain(distances, 1.2, 0.8) + 0.5**0.5 * (noise[0][keys] + noise[1])
        return np.stack([kl, score], axis=1)

    def peak(values: Values, keys: Keys | None) -> Estimate:
        fit = fit_policy_gradient(values[:, 0], values[:, 1], keys, _RESAMPLES, 0)
        assert fit is not None, "there are twelve points"
        return Estimate(fit.peak.value, fit.peak.low, min(fit.peak.high, 1e9))

    yield Case("peak of a fitted score", "difference", float(np.exp(1.2 / 0.8 - 1)), draw, peak, alone=True)


def _bootstrap(values: Values, keys: Keys | None) -> Estimate:
    return paired_bootstrap(values, _RESAMPLES, 0, keys)


def _mixed(values: Callable[[Rng, int], Values], alike: float) -> Draw:
    """A part that the rows of a prompt share, and one that they do not."""

    def draw(rng: Rng, keys: NDArray[np.intp]) -> Values:
        shared, own = values(rng, int(keys[-1]) + 1)[keys], values(rng, len(keys))
        return np.asarray(alike**0.5 * shared + (1 - alike) ** 0.5 * own)

    return draw


def _outcomes(shares: dict[float, float], alike: float) -> Draw:
    """Outcomes whose shares differ between prompts as a Dirichlet distribution makes them: a correlation of `alike`."""
    values, means = np.array(list(shares)), np.array(list(shares.values()))

    def draw(rng: Rng, keys: NDArray[np.intp]) -> Values:
        size = int(keys[-1]) + 1
        if alike == 0:
            return rng.choice(values, p=means, size=len(keys))
        if alike == 1:
            return rng.choice(values, p=means, size=size)[keys]
        of_prompt = rng.dirichlet(means * (1 / alike - 1), size=size)
        below = of_prompt.cumsum(axis=1)[keys, :-1]
        return np.asarray(values[(rng.random(len(keys))[:, None] > below).sum(axis=1)])

    return draw


if __name__ == "__main__":
    main()

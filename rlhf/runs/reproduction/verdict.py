"""The verdict on a reproduction: stage by stage, what it made and measured then and now."""

from collections.abc import Iterator, Mapping
from typing import Literal

from rlhf.metrics import METRICS, describe
from rlhf.provenance.record import ProvenanceRecord
from rlhf.references import FrozenModel
from rlhf.runs.reproduction.results import StageResult

Verdict = Literal["identical", "equal within tolerance", "different"]
RELATIVE_TOLERANCE = 0.05
ABSOLUTE_TOLERANCE = 0.02
_DECISIVE = ("python", "cpu", "cpu_instructions", "gpus")
# The card names its run, and the record the machine.
_NEVER_THE_SAME = ("README.md", "provenance.json")


class Divergence(FrozenModel):
    """The step at which the curves of a stage part."""

    step: int
    metric: str
    then: float | None
    """None where it was not logged at this step."""
    now: float | None


class MetricPair(FrozenModel):
    """A metric that people compare runs by, then and now; None where it was not measured."""

    name: str
    then: float | None
    now: float | None


class StageComparison(FrozenModel):
    """A stage, then and now."""

    name: str
    seconds_then: float
    seconds_now: float
    weights_then: str | None
    """The sha256 over all weights; None where the stage makes none."""
    weights_now: str | None
    num_metrics: int
    num_equal_metrics: int
    figures: tuple[MetricPair, ...]
    other_files: tuple[str, ...]
    """Files that came out otherwise, or are on one side only."""
    parted: Divergence | None
    """The first step at which a metric has another value."""
    beyond_tolerance: tuple[str, ...]
    """Figures that people compare runs by, and that differ by more than the tolerance."""

    @property
    def is_identical(self) -> bool:
        """Weights, all other files and all metrics are the same to the bit."""
        return self.weights_then == self.weights_now and not self.other_files and self.parted is None


class Reproduction(FrozenModel):
    """A run that was made again."""

    verdict: Verdict
    reason: str
    """A sentence for a person."""
    run_id: str
    """The run that was made again."""
    reproduction_run: str
    """The MLflow run that tells of it."""
    not_compared: tuple[str, ...]
    """Stages that one side has not finished, or that a reproduction does not make."""
    environment: tuple[str, ...]
    """Changes of the environment that may change bits."""
    stages: tuple[StageComparison, ...]
    seconds_then: float
    seconds_now: float
    """Of the stages; `seconds_in_all` has the environment's and the data's too."""
    seconds_in_all: float
    kept_in: str | None = None
    """The working tree, where it was kept."""


def compare_stage(name: str, then: StageResult, now: StageResult) -> StageComparison:
    """Compare a stage, then and now."""
    names = {*then.metrics, *now.metrics}
    changed = _changed(then.files, now.files) - (set(_NEVER_THE_SAME) if name == "model_card" else set())
    return StageComparison(
        name=name,
        seconds_then=then.seconds,
        seconds_now=now.seconds,
        weights_then=then.weights,
        weights_now=now.weights,
        num_metrics=len(names),
        num_equal_metrics=sum(then.curves.get(metric) == now.curves.get(metric) for metric in names),
        figures=tuple(
            MetricPair(name=metric, then=then.metrics.get(metric), now=now.metrics.get(metric))
            for metric in METRICS
            if metric in names and describe(metric).summary
        ),
        other_files=tuple(sorted(changed)),
        parted=_parted(then, now),
        beyond_tolerance=tuple(sorted(_beyond(then.metrics, now.metrics))),
    )


def environment_changes(then: ProvenanceRecord, now: ProvenanceRecord) -> tuple[str, ...]:
    """Changes of the environment that may change bits, in words."""
    before, after = _facts(then), _facts(now)
    return tuple(
        f"{name.removeprefix('version.')}: {before.get(name) or 'none'} then, {after.get(name) or 'none'} now"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    )


def _facts(record: ProvenanceRecord) -> dict[str, str]:
    machine = record.machine
    versions = {name: value for name, value in machine.items() if name.startswith("version.")}
    chosen = {name: machine.get(name, "") for name in _DECISIVE}
    # The C library's version, with which platform.platform() ends: its mathematics are used.
    libc = machine.get("platform", "").rpartition("-with-")[2]
    return chosen | versions | record.compute | {"libc": libc, "requirements.lock": record.lock_sha256[:12]}


def decide_verdict(stages: tuple[StageComparison, ...], environment: tuple[str, ...]) -> tuple[Verdict, str]:
    """The verdict on a run, and why.

    Identical is what came out the same to the bit where nothing of the environment that may change bits is another;
    otherwise equal bits are luck. What differs is within tolerance only where the environment explains it, and no
    figure that people compare runs by has moved beyond its interval (or, without one, by more than 5% and 0.02).
    """
    unlike = [stage for stage in stages if not stage.is_identical]
    if not unlike:
        same = f"Weights, files and metrics of {', '.join(stage.name for stage in stages)} are the same to the bit"
        if not environment:
            return "identical", f"{same}."
        return "equal within tolerance", f"{same}, but the environment is another ({'; '.join(environment)})."
    first = unlike[0]
    where = f"{first.name} is the first stage that came out otherwise{_where(first)}"
    moved = [name for stage in stages for name in stage.beyond_tolerance]
    if not environment:
        return "different", f"{where}, and nothing of the environment explains it."
    if moved:
        return "different", f"{where} ({'; '.join(environment)}); beyond tolerance: {', '.join(moved)}."
    return (
        "equal within tolerance",
        f"{where}, because of another environment ({'; '.join(environment)}); every figure is within its interval, "
        f"or within {RELATIVE_TOLERANCE:.0%} or {ABSOLUTE_TOLERANCE} of what it was.",
    )


def _where(stage: StageComparison) -> str:
    if stage.parted is not None:
        parted = stage.parted
        return (
            f", from {parted.metric} at step {parted.step} on: {_number(parted.then)} then, {_number(parted.now)} now"
        )
    if stage.weights_then != stage.weights_now:
        return ", in its weights"
    return f", in {', '.join(stage.other_files[:3])}"


def _number(value: float | None) -> str:
    return "nothing" if value is None else repr(value)


def _changed(then: Mapping[str, str], now: Mapping[str, str]) -> set[str]:
    return {name for name in {*then, *now} if then.get(name) != now.get(name)}


def _parted(then: StageResult, now: StageResult) -> Divergence | None:
    divergences = [
        Divergence(step=step, metric=name, then=before, now=after)
        for name in {*then.metrics, *now.metrics}
        for step, before, after in _differences(dict(then.curves.get(name, [])), dict(now.curves.get(name, [])))
    ]
    return min(divergences, key=lambda divergence: (divergence.step, divergence.metric), default=None)


def _differences(
    then: Mapping[int, float], now: Mapping[int, float]
) -> Iterator[tuple[int, float | None, float | None]]:
    for step in sorted({*then, *now}):
        if then.get(step) != now.get(step):
            yield step, then.get(step), now.get(step)
            return


def _beyond(then: Mapping[str, float], now: Mapping[str, float]) -> Iterator[str]:
    for name in {*then, *now}:
        metric = describe(name)
        if not metric.summary or metric.unit in ("rows", "update") or "/num_" in name:
            continue
        if name not in then or name not in now or not _is_near(name, then, now):
            yield f"{name} {_number(then.get(name))} then, {_number(now.get(name))} now"


def _is_near(name: str, then: Mapping[str, float], now: Mapping[str, float]) -> bool:
    ends = (f"{name}_low", f"{name}_high")
    if all(end in run for end in ends for run in (then, now)):
        return then[ends[0]] <= now[ends[1]] and now[ends[0]] <= then[ends[1]]
    return abs(now[name] - then[name]) <= max(RELATIVE_TOLERANCE * abs(then[name]), ABSOLUTE_TOLERANCE)

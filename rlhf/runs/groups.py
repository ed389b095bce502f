"""A group: one recipe with several seeds, and what it comes to over them.

Two intervals stand beside each other. That of one seed is over test prompts, for the policy of that seed; that of the
group is over seeds, on the same data and test prompts. Neither covers what the other does.
"""

from collections.abc import Iterator, Mapping, Sequence

from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import RLHFError
from rlhf.evaluation.statistics import mean_interval
from rlhf.metrics import GROUP, HEADLINES, METRICS
from rlhf.provenance.record import canonical_sha256
from rlhf.references import GroupReport, SeedReport, SeedStatistics
from rlhf.text.markdown import escape, table


class SeedsFailedError(RLHFError):
    """Some seeds of a group failed, or all of them.

    Attributes:
        report: of the whole group.
    """

    def __init__(self, report: GroupReport, exit_code: int) -> None:
        failed = report.failed
        by_error: dict[str | None, list[str]] = {}
        for seed in failed:
            by_error.setdefault(seed.error, []).append(str(seed.seed))
        why = "; ".join(f"seed {', '.join(seeds)}: {error}" for error, seeds in by_error.items())
        super().__init__(
            f"{len(failed)} of {len(report.seeds)} seeds failed, and the summary is without them ({why}); "
            "mend that, and the same command takes what is done from the cache"
        )
        self.report = report
        self.exit_code = exit_code


def group_key(config: PipelineConfig, seeds: Sequence[int]) -> str:
    """The key of a group: the sha256 of its settings, without the recipe's own seed, and of its seeds.

    Code and data are no part of it: every seed is run again where a group goes on, and takes from the cache only what
    code and data of then would make again.
    """
    return canonical_sha256(config.model_dump(mode="json", exclude={"seed"}) | {"seeds": sorted(seeds)})


def over_seeds(seeds: Sequence[SeedReport]) -> dict[str, SeedStatistics]:
    """Every headline figure over the seeds that have it, by its name."""
    values = {name: [seed.metrics[name] for seed in seeds if name in seed.metrics] for name in HEADLINES}
    return {name: _statistics(measured) for name, measured in values.items() if measured}


def group_metrics(report: GroupReport) -> dict[str, float]:
    """The summary as metrics of the group's run."""
    metrics = {f"{GROUP}num_seeds": float(len(report.finished)), f"{GROUP}num_failed": float(len(report.failed))}
    for name, over in report.statistics.items():
        ends = {"": over.mean, "_low": over.low, "_high": over.high, "_std": over.std}
        metrics |= {f"{GROUP}{name}{end}": value for end, value in ends.items() if value is not None}
    return metrics


def as_markdown(report: GroupReport) -> str:
    """The summary as a page."""
    return "\n\n".join(_parts(report)) + "\n"


def _statistics(values: Sequence[float]) -> SeedStatistics:
    """Statistics of one metric's values, one value per seed."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return SeedStatistics(num_seeds=1, mean=mean, std=None, low=None, high=None)
    interval = mean_interval(values)
    std = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return SeedStatistics(num_seeds=len(values), mean=mean, std=std, low=interval.low, high=interval.high)


def _parts(report: GroupReport) -> Iterator[str]:
    seeds = report.finished
    yield f"# {report.recipe} with {len(report.seeds)} seeds"
    yield (
        "The interval of a mean is over seeds (95%, Student's t): where the mean over all seeds lies, with the same "
        "data and test prompts; a single seed varies by its standard deviation. The interval of one seed is over test "
        "prompts (95%): what other prompts would show of that seed's policy."
    )
    yield from (f"**{escape(note)}**" for note in report.notes)
    yield table(["seed", "state", "MLflow run", "why"], map(_seed_row, report.seeds))
    header = ["metric", "unit", "mean", "over seeds", "sd", *(f"seed {seed.seed}" for seed in seeds)]
    figures = [
        [f"`{name}`", METRICS[name].unit, _number(over.mean), _ends(over.low, over.high), _number(over.std)]
        + [_of_seed(seed.metrics, name) for seed in seeds]
        for name, over in report.statistics.items()
    ]
    if figures:
        yield table(header, figures)


def _seed_row(seed: SeedReport) -> list[str]:
    state = "finished" if seed.error is None else "failed"
    return [str(seed.seed), state, f"`{seed.run_id}`" if seed.run_id else "", escape(seed.error or "")]


def _of_seed(metrics: Mapping[str, float], name: str) -> str:
    ends = _ends(metrics.get(f"{name}_low"), metrics.get(f"{name}_high"))
    return f"{_number(metrics.get(name))} {f'({ends})' if ends else ''}".strip()


def _ends(low: float | None, high: float | None) -> str:
    return f"{_number(low)} to {_number(high)}" if low is not None and high is not None else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"

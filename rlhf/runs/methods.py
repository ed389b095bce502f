"""A comparison of methods: one recipe, several ways to train its policy, several seeds each.

Every method starts from the same data, SFT policy and reward models of a seed, so methods are compared seed by seed.
The interval of a difference is over seeds, and holds for all pairs of methods at once (Bonferroni).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from rlhf.config.pipeline import METHOD_TITLES, PipelineConfig
from rlhf.errors import RLHFError
from rlhf.evaluation.figures import COLORS, new_figure
from rlhf.evaluation.intervals import CONFIDENCE
from rlhf.evaluation.statistics import mean_interval
from rlhf.metrics import METRICS
from rlhf.provenance.record import canonical_sha256
from rlhf.references import GroupReport, MethodDifference, MethodReport, MethodsReport
from rlhf.text.markdown import escape, table

_GAINS = ("evaluation/gold_gain", "evaluation/selection_score_gain")
"""What says which method is better, the first that there is."""
_SHOWN = (
    *_GAINS,
    "evaluation/win_rate",
    "evaluation/kl",
    "policy/trained_seconds",
)
CURVES = ("evaluation/curve_kl", "evaluation/curve_gold", "evaluation/curve_selection_score")
"""Of a run's held-out evaluations: distance from the SFT policy, and what was won."""

Curves = Mapping[str, Sequence[tuple[int, float]]]


class MethodsFailedError(RLHFError):
    """Some methods of a comparison failed for some seeds, or all of them.

    Attributes:
        report: of the whole comparison.
    """

    def __init__(self, report: MethodsReport, exit_code: int) -> None:
        failed = [f"{method.method}: {method.error}" for method in report.methods if method.error is not None]
        super().__init__(
            f"{len(failed)} of {len(report.methods)} methods did not finish ({'; '.join(failed)}); mend that, and the "
            "same command takes what is done from the cache"
        )
        self.report = report
        self.exit_code = exit_code


def methods_key(config: PipelineConfig, methods: Sequence[str], seeds: Sequence[int]) -> str:
    """The key by which a comparison that did not finish is found again."""
    what = {"methods": sorted(methods), "seeds": sorted(seeds)}
    return canonical_sha256(config.model_dump(mode="json", exclude={"seed"}) | what)


def differences(methods: Sequence[MethodReport]) -> tuple[MethodDifference, ...]:
    """What each method gains over each other one, over the seeds that both have."""
    groups = [method for method in methods if method.group is not None]
    pairs = list(combinations(groups, 2))
    found = []
    for first, second in pairs:
        gains = [_gains(method.group) for method in (first, second) if method.group is not None]
        seeds = sorted(gains[0].keys() & gains[1].keys())
        values = [gains[0][seed] - gains[1][seed] for seed in seeds]
        if len(values) < 2:
            continue
        interval = mean_interval(values, confidence=1.0 - (1.0 - CONFIDENCE) / len(pairs))
        found.append(
            MethodDifference(
                first=first.method,
                second=second.method,
                num_seeds=len(seeds),
                mean=interval.value,
                low=interval.low,
                high=interval.high,
            )
        )
    return tuple(found)


def as_markdown(report: MethodsReport) -> str:
    """The comparison as a page."""
    return "\n\n".join(_parts(report)) + "\n"


def draw_frontiers(curves: Mapping[str, Sequence[Curves]], chosen: Mapping[str, Sequence[Curves]], path: Path) -> None:
    """Gold reward, or the selection score where there is no gold rule, against the distance from the SFT policy.

    Args:
        curves: of each seed's held-out evaluations, by method.
        chosen: the point of each seed's chosen checkpoint, in the same form.
        path: PNG that is written.
    """
    of_gold = all(CURVES[1] in seed for seeds in curves.values() for seed in seeds)
    won = CURVES[1] if of_gold else CURVES[2]
    with new_figure(path, "What each method wins, and how far it goes for it", 8.4, 5.4) as drawn:
        axes = drawn.subplots()
        for color, (method, seeds) in zip(COLORS, curves.items(), strict=False):
            for number, seed in enumerate(seeds):
                points = _points(seed, won)
                axes.plot(*zip(*points, strict=True), color=color, linewidth=1.0, alpha=0.4)
                for marked in _points(chosen[method][number], won):
                    axes.plot(*marked, color=color, marker="o", markersize=7, markeredgecolor="white")
            axes.plot([], [], color=color, marker="o", label=title_of(method))
        axes.set_xlabel("distance from the SFT policy, sqrt(KL), KL in nats per response")
        axes.set_ylabel("gold reward" if of_gold else "score of the selection reward model")
        axes.legend(loc="lower right")


def method_tables(report: MethodsReport) -> list[list[list[str]]]:
    """Tables, each with its header first: the methods' figures, and, where there are any, the differences."""
    finished = [method for method in report.methods if method.group is not None]
    shown = [name for name in _SHOWN if any(_values(method.group, name) for method in finished)]
    figures = [["method", *map(_heading, shown)]]
    figures += [[title_of(method.method), *(_over_seeds(method.group, name) for name in shown)] for method in finished]
    compared = [["methods", "seeds", "difference", "interval", "verdict"], *map(_difference_row, report.differences)]
    return [figures, compared] if report.differences else [figures]


def title_of(method: str) -> str:
    """A method's name for people."""
    return METHOD_TITLES[method]


def _gains(group: GroupReport | None) -> dict[int, float]:
    """The gain of each finished seed."""
    seeds = group.finished if group is not None else ()
    name = next((name for name in _GAINS if seeds and all(name in seed.metrics for seed in seeds)), _GAINS[-1])
    return {seed.seed: seed.metrics[name] for seed in seeds if name in seed.metrics}


def _points(seed: Curves, won: str) -> list[tuple[float, float]]:
    kls, values = dict(seed.get(CURVES[0], ())), dict(seed.get(won, ()))
    return [(max(kls[step], 0.0) ** 0.5, values[step]) for step in sorted(kls.keys() & values.keys())]


def _parts(report: MethodsReport) -> Iterator[str]:
    yield f"# {report.recipe}: {len(report.methods)} methods, {len(report.seeds)} seeds"
    yield (
        "The same data, and for every seed the same SFT policy and reward models. A figure is the mean over seeds with "
        "its 95% t-interval; seconds are those of the stage that trains the policy, when it was trained."
    )
    figures, *comparisons = method_tables(report)
    yield table(figures[0], figures[1:])
    for compared in comparisons:
        yield (
            "Which differences are real: the gain of the first method less that of the second, seed by seed, with "
            "intervals that hold for all pairs at once (95%, Student's t, Bonferroni)."
        )
        yield table(compared[0], compared[1:])
    for method in report.methods:
        if method.error is not None:
            yield f"**{escape(title_of(method.method))} did not finish: {escape(method.error)}**"
    finished = [method for method in report.methods if method.group is not None]
    groups = [[title_of(method.method), f"`{method.group.run_id}`"] for method in finished if method.group is not None]
    yield table(["method", "MLflow run of its seeds"], groups)


def _heading(name: str) -> str:
    words, unit = name.partition("/")[2].replace("_", " "), METRICS[name].unit
    return f"{words}, {unit}" if unit else words


def _difference_row(difference: MethodDifference) -> list[str]:
    better = difference.first if difference.mean > 0 else difference.second
    verdict = f"{title_of(better)} is better" if difference.is_real else "within noise"
    return [
        f"{title_of(difference.first)} less {title_of(difference.second)}",
        str(difference.num_seeds),
        f"{difference.mean:+.4f}",
        f"{difference.low:+.4f} to {difference.high:+.4f}",
        verdict,
    ]


def _values(group: GroupReport | None, name: str) -> list[float]:
    return [seed.metrics[name] for seed in (group.finished if group else ()) if name in seed.metrics]


def _over_seeds(group: GroupReport | None, name: str) -> str:
    values = _values(group, name)
    if len(values) < 2:
        return "".join(f"{value:.4g}" for value in values)
    interval = mean_interval(values)
    return f"{interval.value:.4g} ({interval.low:.4g} to {interval.high:.4g})"

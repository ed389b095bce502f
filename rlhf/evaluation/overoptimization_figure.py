"""The figure of over-optimization: scores and gold reward against the distance, and responses over the updates."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf.evaluation.best_of_n import BestOfN
from rlhf.evaluation.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    line_with_band,
    new_figure,
    path_with_bars,
    percent_axis,
)
from rlhf.evaluation.overoptimization import LEAST_DISTINCT_2, CurvePoint, Findings
from rlhf.evaluation.scaling_law import FORMS, Fit
from rlhf.evaluation.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DISTANCE = "distance from the SFT policy: square root of the KL in nats per response"


def draw_overoptimization(points: Sequence[CurvePoint], path: Path, findings: Findings | None = None) -> None:
    """Draw the curve: scores (and gold reward) against sqrt(KL), and what the responses are like over the updates.

    Args:
        points: of the curve.
        path: file that is written.
        findings: fitted forms, the turn, and best-of-n beside the policy.
    """
    has_gold = bool(_gold(points))
    title = (
        "Scores on the way, and what the raters meant"
        if has_gold
        else "Scores on the way, and what chose the checkpoint"
    )
    with new_figure(path, title, 12.0, 6.0 if has_gold else 5.2) as drawn:
        grid = drawn.add_gridspec(1, 2, width_ratios=[1.32, 1])
        left, right = drawn.add_subfigure(grid[0, 0]), drawn.add_subfigure(grid[0, 1])
        rows = left.subplots(1 + has_gold, 1, sharex=True, squeeze=False, height_ratios=[1.15, 1][: 1 + has_gold])[:, 0]
        _score_panel(rows[0], points)
        if has_gold:
            _gold_panel(rows[1], points)
        if findings is not None:
            _draw_findings(list(rows), points, findings)
        rows[-1].set_xlabel(_DISTANCE)
        hedges = all({"hedging_easy", "hedging_hard"} & point.shares.keys() for point in points)
        (_hedging_panel if hedges else _repetition_panel)(right.subplots(), points)


def _gold(points: Sequence[CurvePoint]) -> list[Estimate]:
    return [point.gold for point in points if point.gold is not None]


def _score_panel(axes: "Axes", points: Sequence[CurvePoint]) -> None:
    x = [point.sqrt_kl for point in points]
    path_with_bars(axes, x, [point.score for point in points], "score", BLUE)
    path_with_bars(
        axes, x, [point.selection_score for point in points], "selection reward model (chooses)", ORANGE, "s"
    )
    _finish(axes, "Score and selection score", "mean score", [point.sqrt_kl for point in points if point.chosen])


def _gold_panel(axes: "Axes", points: Sequence[CurvePoint]) -> None:
    path_with_bars(axes, [point.sqrt_kl for point in points], _gold(points), "gold reward", GREEN, "D")
    positions = [point.sqrt_kl for point in points if point.chosen]
    _finish(axes, "Gold reward, which training never sees", "mean gold reward", positions, with_legend=False)


def _draw_findings(rows: Sequence["Axes"], points: Sequence[CurvePoint], findings: Findings) -> None:
    """Fitted forms as thin lines, best-of-n as open triangles, and a line where over-optimization began."""
    start, largest = points[0], max(point.sqrt_kl for point in points)
    starts = {"score": start.score, "selection_score": start.selection_score, "gold": start.gold}
    panels = [rows[0], rows[0], rows[-1]]
    for axes, (name, color) in zip(panels, _COLORS.items(), strict=True):
        first, fit = starts[name], findings.fits.get(name)
        if first is None:
            continue
        if fit is not None:
            _draw_fit(axes, fit, first.value, largest, color)
        if findings.best_of_n is not None and name != "score":
            _draw_best_of_n(axes, findings.best_of_n, name, color)
    turned = [point.sqrt_kl for point in points if point.update == findings.turn.update]
    for axes in rows:
        if findings.turn.state == "over_optimized":
            axes.axvline(turned[0], color=VERMILION, linewidth=1.2, zorder=1, label="over-optimization begins")
        axes.legend(loc="best", fontsize=8.5)


_COLORS = {"score": BLUE, "selection_score": ORANGE, "gold": GREEN}


def _draw_fit(axes: "Axes", fit: Fit, start: float, largest: float, color: str) -> None:
    x = np.linspace(0.0, largest, 200)
    y = start + FORMS[fit.form].gain(x, fit.alpha.value, fit.beta.value)
    axes.plot(x, y, color=color, linewidth=1.2, linestyle=(0, (1, 1.5)), zorder=2, label=f"{fit.form}, fitted")


def _draw_best_of_n(axes: "Axes", best_of_n: BestOfN, name: str, color: str) -> None:
    x, values = [point.sqrt_kl for point in best_of_n.points], [point.values[name] for point in best_of_n.points]
    largest = best_of_n.points[-1].num_samples
    style: dict[str, Any] = {"color": color, "marker": "^", "markerfacecolor": "white", "linewidth": 0.8}
    errors = [[value.value - value.low for value in values], [value.high - value.value for value in values]]
    label = f"best of n of SFT by the score, n up to {largest}"
    axes.errorbar(x, [value.value for value in values], yerr=errors, elinewidth=1.0, alpha=0.8, label=label, **style)


def _hedging_panel(axes: "Axes", points: Sequence[CurvePoint]) -> None:
    x = [point.update for point in points]
    styles = {"hedging_hard": ("on hard questions", PURPLE, "s"), "hedging_easy": ("on easy questions", VERMILION, "o")}
    for name, (label, color, marker) in styles.items():
        if all(name in point.shares for point in points):
            line_with_band(axes, x, [point.shares[name] for point in points], label, color, marker)
    axes.set_ylim(-0.03, 1.03)
    _finish_by_update(axes, points, "Answers that hedge", "share of responses")


def _repetition_panel(axes: "Axes", points: Sequence[CurvePoint]) -> None:
    x, y = [point.update for point in points], [point.distinct_2 for point in points]
    axes.plot(x, y, color=PURPLE, marker="s", markeredgecolor="white", label="distinct-2")
    axes.axhline(
        LEAST_DISTINCT_2 * y[0], color=VERMILION, linewidth=1.2, label="responses repeat themselves below this"
    )
    axes.set_ylim(0.0, 1.03)
    _finish_by_update(axes, points, "Different pairs of words", "share of all pairs of neighbouring words")


def _finish_by_update(axes: "Axes", points: Sequence[CurvePoint], title: str, label: str) -> None:
    axes.set_xlabel("update")
    percent_axis(axes.yaxis)
    _finish(axes, title, label, [point.update for point in points if point.chosen])


def _finish(axes: "Axes", title: str, label: str, chosen: Sequence[float], *, with_legend: bool = True) -> None:
    """Title, label and legend, and a line at the chosen checkpoint."""
    axes.set_title(title)
    axes.set_ylabel(label)
    for position in chosen:
        axes.axvline(position, color=GREY, linestyle=(0, (4, 3)), linewidth=1.4, zorder=1, label="chosen checkpoint")
    if with_legend:
        axes.legend(loc="best")

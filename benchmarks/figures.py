"""The benchmarks' figures, in the project's style."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.curves import Curves
from rlhf.evaluation.figures import BLUE, COLORS, GREEN, GREY, ORANGE, PURPLE, VERMILION, new_figure, subtitle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIDES = {
    "ours-bf16": ("ours, bf16", BLUE, "o"),
    "ours-fp32": ("ours, fp32", GREEN, "s"),
    "peer": ("TRL 1.12.0", VERMILION, "^"),
    "ours-trunk": ("ours, trunk", ORANGE, "v"),
    "ours-adapters": ("ours, adapters", PURPLE, "D"),
}


def draw_learning(curves: Mapping[str, Curves], path: Path) -> None:
    """Held-out gold reward against episodes and against seconds: the seeds' means, with all seeds behind them."""
    seeds = len(next(iter(curves.values())).gold)
    with new_figure(path, "Ours and TRL 1.12.0 on the demo's task, from the same three models", 11.0, 4.6) as one:
        left, right = one.subplots(1, 2, sharey=True)
        for side, (label, color, marker) in _SIDES.items():
            if side in curves:
                _panel(left, curves[side], label, color, marker, over_time=False)
                _panel(right, curves[side], label, color, marker, over_time=True)
        subtitle(left, "At equal episodes", f"held-out gold reward, mean of {seeds} seeds; thin: each seed")
        subtitle(right, "Against wall time", "seconds of training alone")
        left.set_ylabel("gold reward")
        left.set_xlabel("episodes")
        right.set_xlabel("seconds of training")
        left.legend(loc="lower right")


def _panel(axes: "Axes", curves: Curves, label: str, color: str, marker: str, *, over_time: bool) -> None:
    for seconds, gold in zip(curves.seconds, curves.gold, strict=True):
        axes.plot(seconds if over_time else curves.episodes, gold, color=color, linewidth=0.8, alpha=0.25)
    x = curves.seconds.mean(0) if over_time else curves.episodes
    axes.plot(x, curves.mean, color=color, marker=marker, label=label, markeredgecolor="white")


def draw_scaling(series: Mapping[str, "ScalingSeries"], path: Path) -> None:
    """Seconds against size, a panel a kind of size, beside what the arithmetic expects of the largest sizes."""
    with new_figure(path, "What an update costs, and what the arithmetic says", 4.6 * len(series), 4.9) as one:
        panels = one.subplots(1, len(series), squeeze=False)[0]
        for axes, (name, points) in zip(panels, series.items(), strict=True):
            _scaling_panel(axes, name, points)
        panels[0].set_ylabel("seconds an update")


ScalingSeries = tuple[Sequence[float], Mapping[str, Sequence[float]], Sequence[float], str]
"""x, seconds by phase (`all` among them), those expected of all at the last x, and a line on what was found."""


def _scaling_panel(axes: "Axes", name: str, points: ScalingSeries) -> None:
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    x, phases, expected, found = points
    total = phases["all"]
    axes.plot(x[-len(expected) :], expected, color=GREY, linestyle=(0, (4, 3)), linewidth=1.6, label="expected")
    others = [phase for phase in phases if phase != "all"]
    for phase, color in zip(others, COLORS[1:], strict=False):
        axes.plot(x, phases[phase], color=color, linewidth=1.2, marker=".", label=phase)
    axes.plot(x, total, color=BLUE, marker="o", label="all", markeredgecolor="white")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(x), [_short(one) for one in x])
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(name)
    subtitle(axes, name.capitalize(), found)
    axes.legend(loc="upper left", fontsize=9)


def draw_optimum(cells: Sequence[Sequence[Mapping[str, Any]]], num_updates: int, step: int, path: Path) -> None:
    """Share of what can be won against updates: a panel a kind of sharing, and one of planted faults.

    Args:
        cells: of runs that have a curve, a point every `step` updates.
        num_updates: of a run.
        step: updates between points.
        path: file that is written.
    """
    drawn = [cell for cell in cells if cell[0]["curve"]]
    sharings = list(dict.fromkeys(cell[0]["sharing"] for cell in drawn if not cell[0]["fault"]))
    faulty = [cell for cell in drawn if cell[0]["fault"]]
    with new_figure(path, "PPO against an optimum that is known in closed form", 4.2 * (len(sharings) + 1), 4.6) as one:
        *panels, last = one.subplots(1, len(sharings) + 1, sharey=True)
        for axes, sharing in zip(panels, sharings, strict=True):
            of_sharing = [cell for cell in drawn if cell[0]["sharing"] == sharing and not cell[0]["fault"]]
            for color, cell in zip(COLORS, of_sharing, strict=False):
                label = f"{cell[0]['dtype']}, T {cell[0]['temperature']:g}"
                _optimum_curves(axes, cell, num_updates, step, color, label)
            ceiling = sum(cell[0]["ceiling"] for cell in of_sharing) / len(of_sharing)
            axes.axhline(ceiling, color=GREY, linestyle=(0, (4, 3)), linewidth=1.4, label="exact ascent")
            subtitle(axes, f"Sharing {sharing}", f"mean of {len(of_sharing[0])} seeds; thin: each seed")
        for color, cell in zip((VERMILION, PURPLE, ORANGE), faulty, strict=False):
            _optimum_curves(last, cell, num_updates, step, color, cell[0]["fault"])
        subtitle(last, "Planted faults", "fp32, sharing none")
        for axes in (*panels, last):
            axes.set_xlabel("updates")
            axes.legend(loc="lower right", fontsize=9)
        panels[0].set_ylabel("share of what can be won")
        panels[0].set_ylim(0.0, 1.02)


def _optimum_curves(
    axes: "Axes", cell: Sequence[Mapping[str, Any]], num_updates: int, step: int, color: str, label: str
) -> None:
    x = [min(point * step, num_updates) for point in range(len(cell[0]["curve"]))]
    for row in cell:
        axes.plot(x, row["curve"], color=color, linewidth=0.8, alpha=0.25)
    mean = [sum(shares) / len(cell) for shares in zip(*(row["curve"] for row in cell), strict=True)]
    axes.plot(x, mean, color=color, label=label)


def _short(number: float) -> str:
    return f"{number / 1e6:.1f}M" if number >= 1e5 else f"{number:g}"

"""The look of every figure, and the figures of the reward-model audit.

Figures are built without pyplot: no backend is chosen and no state of the process is touched for longer than a draw.
Colours are of Okabe and Ito's palette, which the colour-blind can tell apart.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlhf.evaluation.calibration import Calibration
from rlhf.evaluation.statistics import Estimate
from rlhf.evaluation.temperature import TemperatureScaling

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, ORANGE, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#6B6B6B"
COLORS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE)
"""Of things that stand beside each other."""
_DPI = 150
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 10.5,
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class ScoredPairs:
    """One reward model's scores of the held-out pairs, as the audit's figures show them.

    Attributes:
        title: the model's name, for people.
        chosen: scores of the chosen responses, [N].
        rejected: scores of the rejected ones, [N].
        num_prompts: different prompts among the pairs.
        accuracy: share of the pairs in which the chosen one scores higher.
        calibration: of P(chosen wins).
        scaling: the same with one temperature; a text says why there is none.
    """

    title: str
    chosen: NDArray[Any]
    rejected: NDArray[Any]
    num_prompts: int
    accuracy: Estimate
    calibration: Calibration
    scaling: TemperatureScaling | str

    @property
    def margins(self) -> NDArray[Any]:
        """How much higher the chosen response of each pair scores, [N]."""
        return np.asarray(self.chosen - self.rejected)


@contextmanager
def new_figure(path: Path, title: str, width: float, height: float) -> Iterator["Figure"]:
    """A figure in the project's style, written as PNG when the block ends.

    Args:
        path: file that is written.
        title: headline over all panels.
        width: inches, at 150 dots per inch.
        height: inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with mpl.rc_context(_STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.09, wspace=0.04, hspace=0.04)
        drawn = Figure(figsize=(width, height), layout=layout)
        drawn.suptitle(title, x=0.012, ha="left", fontsize=14.5, fontweight="bold", color="#222222")
        yield drawn
        drawn.savefig(path, dpi=_DPI, metadata={"Software": None})


def line_with_band(
    axes: "Axes", x: Sequence[float], estimates: Sequence[Estimate], label: str, color: str, marker: str = "o"
) -> None:
    """A line through the estimates with their 95% intervals as a band."""
    low, high = [estimate.low for estimate in estimates], [estimate.high for estimate in estimates]
    axes.fill_between(x, low, high, color=color, alpha=0.16, linewidth=0)
    values = [estimate.value for estimate in estimates]
    axes.plot(x, values, color=color, marker=marker, label=label, markeredgecolor="white")


def path_with_bars(
    axes: "Axes", x: Sequence[float], estimates: Sequence[Estimate], label: str, color: str, marker: str = "o"
) -> None:
    """A path through the estimates in their order, with 95% intervals as bars: x may go back and forth."""
    values = [estimate.value for estimate in estimates]
    axes.errorbar(x, values, yerr=_errors(estimates), fmt="none", ecolor=color, elinewidth=1.2, alpha=0.45)
    axes.plot(x, values, color=color, linewidth=1.0, alpha=0.5)
    axes.plot(x, values, color=color, marker=marker, linestyle="none", label=label, markeredgecolor="white")


def _errors(estimates: Sequence[Estimate]) -> list[list[float]]:
    """How far the intervals reach below and above the values."""
    return [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]


def subtitle(axes: "Axes", title: str, text: str) -> None:
    """A panel's title with a line below it in smaller, lighter type."""
    axes.set_title(title, pad=25)
    axes.annotate(
        text, (0, 1), (0, 8), xycoords="axes fraction", textcoords="offset points", fontsize=10, color="#555555"
    )


def percent_axis(axis: "Axis") -> None:
    """Ticks of shares as percentages."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def draw_reliability(models: Sequence[ScoredPairs], path: Path) -> None:
    """Confidence against accuracy, a column a reward model, with the number of pairs at each confidence below."""
    with new_figure(path, "Is the reward model as sure as it should be?", 5.2 * len(models), 5.9) as drawn:
        panels = drawn.subplots(2, len(models), sharex=True, sharey="row", squeeze=False, height_ratios=[3.2, 1])
        for column, model in enumerate(models):
            _reliability_panel(panels[0, column], model)
            _confidence_histogram(panels[1, column], model)
        panels[0, 0].set_ylabel("accuracy (rater agrees)")
        panels[1, 0].set_ylabel("pairs")


def draw_scores(models: Sequence[ScoredPairs], path: Path) -> None:
    """Distributions of the scores of chosen and rejected responses, a column a reward model."""
    with new_figure(path, "Scores of chosen and rejected responses on held-out pairs", 5.2 * len(models), 4.4) as drawn:
        panels = drawn.subplots(1, len(models), squeeze=False)[0]
        for axes, model in zip(panels, models, strict=True):
            _score_panel(axes, model)
        panels[0].set_ylabel("responses")


def _reliability_panel(axes: "Axes", model: ScoredPairs) -> None:
    axes.plot([0.5, 1], [0.5, 1], color=GREY, linestyle=(0, (4, 3)), linewidth=1.4, label="perfectly calibrated")
    lowest = _reliability_line(axes, model.calibration, "reward model, 95% interval", BLUE)
    text = f"accuracy {model.accuracy.value:.1%}, calibration error {_calibration_error(model.calibration)}"
    if isinstance(model.scaling, TemperatureScaling):
        scaled, temperature = model.scaling.calibration, model.scaling.temperature.value
        label = f"scaled by {temperature:.2f}: error {_calibration_error(scaled)}"
        lowest = min(lowest, _reliability_line(axes, scaled, label, ORANGE))
    subtitle(axes, model.title, text)
    axes.set_xlim(0.485, 1.015)
    axes.set_ylim(min(0.38, lowest) - 0.02, 1.03)
    percent_axis(axes.yaxis)
    axes.legend(loc="best")


def _calibration_error(of: Calibration) -> str:
    return f"{of.expected_calibration_error:.3f} (chance: {of.null.high:.3f})"


def _reliability_line(axes: "Axes", of: Calibration, label: str, color: str) -> float:
    """Confidence against accuracy. Returns where the lowest interval ends."""
    accuracy = [group.accuracy for group in of.bins]
    axes.errorbar(
        [group.confidence for group in of.bins],
        [a.value for a in accuracy],
        yerr=_errors(accuracy),
        color=color,
        marker="o",
        capsize=3,
        elinewidth=1.3,
        label=label,
    )
    return min(a.low for a in accuracy)


def _confidence_histogram(axes: "Axes", model: ScoredPairs) -> None:
    bins = model.calibration.bins
    width = bins[0].high - bins[0].low
    axes.bar(
        [group.low for group in bins],
        [group.count for group in bins],
        width=width * 0.94,
        align="edge",
        color=BLUE,
        alpha=0.55,
    )
    axes.set_xlabel("confidence: P(preferred response wins)")
    axes.grid(visible=False, axis="x")
    percent_axis(axes.xaxis)


def _score_panel(axes: "Axes", model: ScoredPairs) -> None:
    both = np.concatenate([model.chosen, model.rejected])
    edges = np.histogram_bin_edges(both, bins=40).tolist()
    sides: Mapping[str, tuple[NDArray[Any], str]] = {
        "chosen": (model.chosen, BLUE),
        "rejected": (model.rejected, VERMILION),
    }
    for name, (scores, color) in sides.items():
        axes.hist(scores, edges, color=color, alpha=0.28, linewidth=0)
        axes.hist(
            scores, edges, color=color, histtype="step", linewidth=1.6, label=f"{name} (mean {scores.mean():+.2f})"
        )
        axes.axvline(scores.mean(), ymax=0.84, color=color, linestyle=(0, (4, 3)), linewidth=1.4)
    text = f"chosen scores higher in {model.accuracy.value:.1%} of {len(model.chosen):,} pairs"
    subtitle(axes, model.title, f"{text} ({model.num_prompts:,} prompts)")
    axes.set_xlabel("score (demonstrations score 0 on average)")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.22)
    axes.legend(loc="upper left", ncols=2, columnspacing=1.2, handlelength=1.4)

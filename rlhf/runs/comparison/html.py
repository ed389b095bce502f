"""A comparison as one HTML file that needs nothing else: no network, no scripts, no fonts."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rlhf.evaluation.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION
from rlhf.metrics import METRICS
from rlhf.runs.comparison.compare import CURVES, Comparison
from rlhf.runs.comparison.report import report_sections
from rlhf.runs.comparison.run_view import RunView
from rlhf.runs.pages import page_template

_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, GREY)
_MAX_POINTS = 500
_TEXT, _LINE, _FONT = "#717171", "#e3e3e3", "DejaVu Sans"
_THEME = {_TEXT: "var(--quiet)", _LINE: "var(--line)", f"'{_FONT}'": "system-ui, sans-serif"}
"""The font, and the colours that are seen on a dark ground too, are those of the page."""
_STYLE: Any = {
    "font.family": _FONT,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": _LINE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": _LINE,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "svg.fonttype": "none",
}
_NO_METADATA: Any = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def as_html(comparison: Comparison) -> str:
    """The report with the curves over one another, for a browser, in light or dark as the reader has set it."""
    sides = list(zip(comparison.sides, _COLOURS, strict=False))
    charts = [
        (metric, METRICS[metric].unit, draw_curves(metric, curves))
        for metric in CURVES
        if (curves := [(side, colour) for side, colour in sides if metric in side.curves])
    ]
    return page_template(Path(__file__).parent, "report.html.jinja").render(
        title=comparison.title, sides=sides, sections=report_sections(comparison), charts=charts
    )


def draw_curves(metric: str, sides: Sequence[tuple[RunView, str]]) -> Markup:
    """One chart with a metric of several runs over one another, as an SVG element.

    Args:
        metric: name of the metric.
        sides: runs that have it, each with its colour.
    """
    with mpl.rc_context(_STYLE | {"svg.hashsalt": metric}):
        figure = Figure(figsize=(5.4, 2.5), layout="constrained")
        axes = figure.subplots()
        for side, colour in sides:
            curve = side.curves[metric]
            points = [*curve[: -1 : math.ceil(len(curve) / _MAX_POINTS)], curve[-1]]
            axes.plot(
                *zip(*points, strict=True), color=colour, label=side.label, marker="o" if len(points) == 1 else ""
            )
        axes.margins(x=0.03)
        if axes.dataLim.width == 0:
            axes.set_xlim(axes.dataLim.x0 - 1, axes.dataLim.x0 + 1)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), handlelength=0.8, labelcolor="linecolor")
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    _, start, rest = file.getvalue().partition("<svg")
    for given, themed in _THEME.items():
        rest = rest.replace(given, themed)
    return Markup(start + rest)  # noqa: S704  # of matplotlib, whose only text from a run is its letter and numbers

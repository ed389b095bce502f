"""Line charts as SVG, without a drawing library: matplotlib takes longer to import than a comparison to make."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 520, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 30, 12, 30
_MAX_POINTS = 500
_NUM_TICKS = 5


@dataclass(frozen=True)
class Curve:
    """A line.

    Attributes:
        label: its name, written at its end.
        colour: of CSS.
        points: step and value, by rising step.
    """

    label: str
    colour: str
    points: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class _Axis:
    """Values between two ends, onto pixels between two others."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def draw(curves: Sequence[Curve]) -> str:
    """One chart with curves over one another, as an SVG element.

    Args:
        curves: at least one, each with a point.
    """
    steps = [step for curve in curves for step, _ in curve.points]
    values = [value for curve in curves for _, value in curve.points]
    x_ticks, y_ticks = ticks(min(steps), max(steps), whole=True), ticks(min(values), max(values))
    x = _Axis(*_ends(min(steps), max(steps)), _LEFT, _WIDTH - _RIGHT)
    y = _Axis(*_ends(min(*values, y_ticks[0]), max(*values, y_ticks[-1])), _HEIGHT - _BOTTOM, _TOP)
    parts = [_grid_line(y(tick), _label(tick, y_ticks)) for tick in y_ticks if y.low <= tick <= y.high]
    parts += [
        f'<text x="{x(tick):.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{tick:,.0f}</text>'
        for tick in x_ticks
        if x.low <= tick <= x.high
    ]
    parts += [_line(curve, x, y) for curve in curves]
    parts += _names(curves, x, y)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" font-size="12" fill="#555" '
        f'font-family="system-ui, sans-serif">{"".join(parts)}</svg>'
    )


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers that cover a range.

    Args:
        low: its lower end.
        high: its upper end.
        whole: no fractions.
    """
    span = (high - low) or abs(high) or 1.0
    raw = span / _NUM_TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    if whole:
        step = max(1.0, math.ceil(step))
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def _ends(low: float, high: float) -> tuple[float, float]:
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _label(tick: float, all_ticks: Sequence[float]) -> str:
    step = all_ticks[1] - all_ticks[0] if len(all_ticks) > 1 else abs(tick) or 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) + (0 if _is_round(step) else 1)
    if decimals > 5:
        return f"{tick:.2g}"
    return f"{tick + 0.0:,.{decimals}f}"


def _is_round(step: float) -> bool:
    """One digit says it: 0.2 but not 0.25."""
    mantissa = step / 10.0 ** math.floor(math.log10(step) + 1e-9)
    return abs(mantissa - round(mantissa)) < 1e-6


def _grid_line(height: float, label: str) -> str:
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}" stroke="#e6e6e6"/>'
        f'<text x="{_LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{label}</text>'
    )


def _line(curve: Curve, x: _Axis, y: _Axis) -> str:
    """Thinned where there are more points than pixels; of a single point a dot."""
    stride = max(1, math.ceil(len(curve.points) / _MAX_POINTS))
    kept = [*curve.points[:-1:stride], curve.points[-1]]
    path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in kept)
    if len(kept) == 1:
        place = path.split(",")
        return f'<circle cx="{place[0]}" cy="{place[1]}" r="3.5" fill="{curve.colour}"/>'
    return f'<polyline points="{path}" fill="none" stroke="{curve.colour}" stroke-width="1.8" stroke-linejoin="round"/>'


def _names(curves: Sequence[Curve], x: _Axis, y: _Axis) -> list[str]:
    """At the end of each line, pushed apart where they would lie over one another."""
    found, last = [], -math.inf
    for curve in sorted(curves, key=lambda curve: y(curve.points[-1][1])):
        place = max(y(curve.points[-1][1]), last + 13)
        last = place
        found.append(
            f'<text x="{x(curve.points[-1][0]) + 6:.1f}" y="{place + 4:.1f}" font-weight="600" '
            f'fill="{curve.colour}">{curve.label}</text>'
        )
    return found

"""Charts without a drawing library."""

import re
import xml.etree.ElementTree as ET

import pytest

from rlhf.runs.comparison.charts import Curve, draw, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.1, 0.9, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-3.0, 7.0, [-4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0]),
        (5.0, 5.0, [5.0]),
    ],
)
def test_ticks_are_round_and_cover(low: float, high: float, expected: list[float]):
    assert ticks(low, high) == pytest.approx(expected)


def test_steps_have_no_fractions():
    assert ticks(0, 3, whole=True) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "points",
    [
        [(0, 0.0)],
        [(0, 0.5), (1, 0.5)],
        [(0, -1e-9), (3, 1e-9)],
        [(step, float(step**3)) for step in range(5000)],
        [(7, 1e12), (7, -1e12)],
    ],
)
def test_any_curve_stays_inside_the_picture(points: list[tuple[int, float]]):
    root = ET.fromstring(draw([Curve("A", "#000", points), Curve("B", "#111", points)]))
    lines = root.findall("polyline") + root.findall("circle")
    assert len(lines) == 2
    for line in lines:
        text = line.get("points") or f"{line.get('cx')},{line.get('cy')}"
        numbers = [tuple(map(float, pair.split(","))) for pair in text.split()]
        assert len(numbers) <= 501
        assert all(0 <= x <= 520 and 0 <= y <= 250 for x, y in numbers)
    labels = [float(name.get("y") or 0) for name in root.findall("text") if name.text in "AB"]
    assert abs(labels[0] - labels[1]) >= 13


def test_a_rising_curve_rises():
    path = re.search(r'points="([^"]*)"', draw([Curve("A", "#000", [(0, 0.0), (10, 1.0)])]))
    assert path is not None
    (x1, y1), (x2, y2) = (tuple(map(float, pair.split(","))) for pair in path[1].split())
    assert x2 > x1
    assert y2 < y1

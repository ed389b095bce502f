"""The lineage as a picture: from data, base model and code on the left to the policy on the right."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.audit.nodes import Lineage, Node
from rlhf.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".svg", ".png")
_WIDTH, _HEIGHT = 2.5, 1.22  # of a box, in inches
_GAP, _ROW = 0.62, 1.62  # between columns; from row to row
_COLUMNS = {
    "base": 0,
    "data_version": 0,
    "data": 1,
    "sft": 2,
    "reward_model": 2,
    "ppo": 3,
    "model_card": 4,
    "version": 4,
}
_ROWS = {"base": 2.0, "sft": 2.0, "reward_model": 0.0, "version": 2.0}
_MIDDLE = 1.0
_INK, _QUIET, _LINE = "#222222", "#5A5A5A", "#9AA3AB"
_STATES = {"verified": ("#009E73", "verified"), "changed": ("#D55E00", "CHANGED"), "not checked": ("#9AA3AB", "")}
_FILLS = {"data_version": "#FFF6E0", "base": "#FFF6E0", "code": "#FFF6E0", "version": "#E3F1FA"}
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "svg.hashsalt": "rlhf",
    "svg.fonttype": "path",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class _Box:
    """A node at its place: the middle, in inches."""

    node: Node
    x: float
    y: float


def check_figure(path: Path) -> None:
    """Refuse a file that no figure can be written to.

    Raises:
        InputError: the name does not end with .svg or .png, the folder is not there, or a folder has this name.
    """
    if path.suffix not in FORMATS or not path.parent.is_dir() or path.is_dir():
        raise InputError(f"--figure {path}: give a file in a folder that is there, whose name ends with .svg or .png")


def draw_lineage(lineage: Lineage, path: Path) -> None:
    """Write the figure.

    Args:
        lineage: what is drawn.
        path: a file whose name ends with .svg or .png.

    Raises:
        InputError: the name ends otherwise, or the folder is not there.
    """
    check_figure(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    boxes = _places(lineage)
    right = max(box.x for box in boxes.values()) + _WIDTH / 2 + 0.3
    top = max(box.y for box in boxes.values()) + _HEIGHT / 2 + 1.0
    bottom = min(box.y for box in boxes.values()) - _HEIGHT / 2 - 0.55
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(right, top - bottom))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, right), ylim=(bottom, top), aspect="equal")
        axes.axis("off")
        _title(axes, lineage, top)
        for box in boxes.values():
            for source in box.node.made_from:
                if source in boxes:
                    _arrow(axes, boxes[source], box)
        for box in boxes.values():
            _draw(axes, box)
        _legend(axes, lineage, bottom)
        metadata = {"Software": None} if path.suffix == ".png" else {"Date": None, "Creator": None}
        figure.savefig(path, dpi=150, metadata=metadata)


def _places(lineage: Lineage) -> dict[str, _Box]:
    """Columns by what a node is, empty ones left out; nodes that share a place stand below one another."""
    drawn = [node for node in lineage.nodes.values() if node.kind in _COLUMNS or node.kind == "run"]
    last = max((_COLUMNS[node.kind] for node in drawn if node.kind in _COLUMNS), default=0) + 1
    wanted = {node.id: (_COLUMNS.get(node.kind, last), _ROWS.get(node.kind, _MIDDLE)) for node in drawn}
    columns = {column: number for number, column in enumerate(sorted({column for column, _ in wanted.values()}))}
    taken: dict[tuple[int, float], int] = {}
    boxes = {}
    for node in drawn:
        place = wanted[node.id]
        column, row = place
        number = taken[place] = taken.get(place, -1) + 1
        x = 0.3 + _WIDTH / 2 + columns[column] * (_WIDTH + _GAP)
        boxes[node.id] = _Box(node, x, (row - number) * _ROW)
    for number, node in enumerate(lineage.of_kind("code")):
        x = 0.3 + _WIDTH / 2 + number * (_WIDTH + _GAP)
        below = [box.y - _ROW for box in boxes.values() if box.x == x]
        boxes[node.id] = _Box(node, x, min([0.0, *below]))
    return boxes


def _draw(axes: "Axes", box: _Box) -> None:
    from matplotlib.patches import FancyBboxPatch

    node = box.node
    color, word = _STATES[node.state]
    left, top = box.x - _WIDTH / 2, box.y + _HEIGHT / 2
    patch = FancyBboxPatch(
        (left, box.y - _HEIGHT / 2),
        _WIDTH,
        _HEIGHT,
        boxstyle="round,pad=0,rounding_size=0.09",
        facecolor=_FILLS.get(node.kind, "#F5F7F8"),
        edgecolor=color,
        linewidth=1.8 if node.state != "not checked" else 1.1,
        zorder=3,
    )
    axes.add_patch(patch)
    axes.text(
        left + 0.13, top - 0.2, _cut(node.title, 27), fontsize=11, fontweight="bold", color=_INK, va="center", zorder=4
    )
    for number, (text, style) in enumerate(_lines(node)):
        axes.text(left + 0.13, top - 0.46 - 0.205 * number, text, fontsize=8.6, va="center", zorder=4, **style)
    if word:
        axes.text(
            left + _WIDTH - 0.1,
            box.y - _HEIGHT / 2 - 0.03,
            f" {word} ",
            fontsize=7.6,
            color="white",
            ha="right",
            va="center",
            zorder=5,
            bbox={"boxstyle": "round,pad=0.22", "facecolor": color, "edgecolor": "none"},
        )


def _lines(node: Node) -> Iterator[tuple[str, dict[str, Any]]]:
    mono = {"family": "DejaVu Sans Mono", "color": _INK}
    quiet = {"color": _QUIET}
    if node.hash is not None:
        yield f"{node.hash_name} {node.short_hash}", mono
    elif node.kind == "code":
        yield "in no commit", quiet
    for detail in node.details[:2]:
        yield _cut(detail, 34), quiet
    if node.run_id is not None:
        yield f"run {node.run_id[:12]}", mono | {"color": _QUIET}
    # Of code in an earlier run there is no room for both, and that run has its date.
    if node.at is not None and not (node.kind == "code" and node.earlier):
        yield node.at.strftime("%Y-%m-%d %H:%M UTC"), quiet
    if node.earlier and node.pipeline:
        yield f"in the earlier run {node.pipeline[:12]}", {"color": "#A35200", "fontweight": "bold"}


def _arrow(axes: "Axes", source: _Box, target: _Box) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    if source.x == target.x:
        side = 1 if target.y > source.y else -1
        start, end = (source.x, source.y + side * _HEIGHT / 2), (target.x, target.y - side * _HEIGHT / 2)
        curve = Curve([start, end], [Curve.MOVETO, Curve.LINETO])
    else:
        start, end = (source.x + _WIDTH / 2, source.y), (target.x - _WIDTH / 2, target.y)
        bend = max(0.35, (end[0] - start[0]) * 0.5)
        vertices = [start, (start[0] + bend, start[1]), (end[0] - bend, end[1]), end]
        curve = Curve(vertices, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
    axes.add_patch(
        FancyArrowPatch(
            path=curve,
            arrowstyle="-|>,head_length=5,head_width=2.6",
            color=_LINE,
            linewidth=1.3,
            zorder=2,
            shrinkA=0,
            shrinkB=0,
        )
    )


def _title(axes: "Axes", lineage: Lineage, top: float) -> None:
    node = lineage.nodes[lineage.root]
    heading = " ".join(
        [f"What {node.title}", *(f"({alias})" for alias in node.details if node.kind == "version"), "came from"]
    )
    axes.text(0.3, top - 0.34, heading, fontsize=15, fontweight="bold", color=_INK, va="center")
    axes.text(0.3, top - 0.65, f"pipeline run {lineage.run_id}", fontsize=9.5, color=_QUIET, va="center")


def _legend(axes: "Axes", lineage: Lineage, bottom: float) -> None:
    ledger = lineage.ledger
    if not lineage.verified:
        text = "Hashes were not checked."
    elif ledger.sound:
        text = f"Every hash was checked against what is there: {ledger.num_bytes / 1e6:,.1f} MB read."
    else:
        text = "Changed since it was logged: " + _listed(sorted({finding.what for finding in ledger.findings}))
    color = _QUIET if ledger.sound else "#D55E00"
    axes.text(0.3, bottom + 0.2, text, fontsize=9, color=color, va="center")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."

"""The curve that shows whether training went too far: proxy score, selection score and gold reward against sqrt(KL).

Every method keeps the generations of its held-out evaluations. They are scored by the gold rule here, after the fact.

Source: Gao, Schulman, Hilton, "Scaling laws for reward model overoptimization", 2210.10760, figure 1 and section 3.2.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.data.preparation.splits import prompt_key
from rlhf.errors import DataError
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
from rlhf.evaluation.gold import shares
from rlhf.evaluation.statistics import Estimate, distinct_n, mean_interval
from rlhf.gold.rules import GoldRule
from rlhf.text.lines import read_json_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_DISTINCT_2 = 0.5
"""Share of the SFT policy's distinct-2 below which responses are said to repeat themselves."""


@dataclass(frozen=True)
class CurvePoint:
    """One held-out evaluation, on validation prompts.

    Attributes:
        update: updates before it; 0 is the SFT policy.
        chosen: its checkpoint is the one that was chosen.
        num_responses: kept generations behind the figures.
        num_prompts: different prompts among them, which are the unit of the intervals.
        kl: exact KL of policy to SFT policy at each token, summed over the response, nats.
        score: the one that training climbs, penalties included.
        selection_score: by the reward model that chooses checkpoints.
        distinct_2: different pairs of neighbouring words as a share of all: it falls as responses repeat themselves.
        gold: by the gold rule, where there is one.
        shares: further properties that the rule names, such as hedging on easy questions.
    """

    update: int
    chosen: bool
    num_responses: int
    num_prompts: int
    kl: Estimate
    score: Estimate
    selection_score: Estimate
    distinct_2: float
    gold: Estimate | None = None
    shares: Mapping[str, Estimate] = field(default_factory=dict)

    @property
    def sqrt_kl(self) -> float:
        """Distance from the SFT policy. Runs of before have k1, whose mean may be negative by chance: 0."""
        return float(max(self.kl.value, 0.0) ** 0.5)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"sqrt_kl": self.sqrt_kl}


def overoptimization_curve(policy: Path, rule: GoldRule | None) -> list[CurvePoint]:
    """Read the kept generations and judge them.

    Args:
        policy: the policy stage's output folder.
        rule: gives gold rewards, where there is one.

    Raises:
        DataError: there are no generations.
    """
    files = sorted((policy / "generations").glob("update_*.jsonl"))
    if not files:
        raise DataError(f"{policy / 'generations'}: there are no kept generations; train the policy again")
    chosen = json.loads((policy / "summary.json").read_text(encoding="utf-8"))["chosen_update"]
    return [_point(file, chosen, rule) for file in files]


def curve_warnings(points: Sequence[CurvePoint]) -> list[str]:
    """Sentences on what went too far: responses that repeat themselves, and gold reward that was lost on the way."""
    return [*_repetition(points), *_lost_gold(points)]


def _repetition(points: Sequence[CurvePoint]) -> list[str]:
    """Where distinct-2 fell below a share of the SFT policy's: at the chosen checkpoint, or only after it."""
    start, last = points[0], points[-1]
    least = LEAST_DISTINCT_2 * start.distinct_2
    warnings = [
        f"Responses repeat themselves: distinct-2 (different pairs of neighbouring words as a share of all) fell from "
        f"{start.distinct_2:.3f} to {point.distinct_2:.3f} at the chosen checkpoint (update {point.update})."
        for point in points
        if point.chosen and point.distinct_2 < least
    ]
    if not warnings and last.distinct_2 < least:
        first = next(point for point in points if point.distinct_2 < least)
        warnings.append(
            f"Training went on to responses that repeat themselves: distinct-2 fell from {start.distinct_2:.3f} to "
            f"{first.distinct_2:.3f} at update {first.update} and {last.distinct_2:.3f} at update {last.update}. The "
            f"chosen checkpoint is not one of these."
        )
    return warnings


def _lost_gold(points: Sequence[CurvePoint]) -> list[str]:
    judged = [(point, point.gold) for point in points if point.gold is not None]
    if not judged:
        return []
    best, best_gold = max(judged, key=lambda pair: pair[1].value)
    last, last_gold = judged[-1]
    warnings = [
        f"The chosen checkpoint (update {point.update}) has gold reward {gold.value:.3f} on validation prompts, below "
        f"the {best_gold.value:.3f} of update {best.update}: what chose it is not quite what the raters meant."
        for point, gold in judged
        if point.chosen and gold.high < best_gold.low
    ]
    if last_gold.high < best_gold.low and last.score.value >= best.score.value:
        warnings.append(
            f"Training over-optimized the reward model: from update {best.update} to {last.update} its score rose from "
            f"{best.score.value:.3f} to {last.score.value:.3f}, and gold reward fell from {best_gold.value:.3f} to "
            f"{last_gold.value:.3f}."
        )
    return warnings


def draw_overoptimization(points: Sequence[CurvePoint], path: Path) -> None:
    """Draw the curve: scores (and gold reward) against sqrt(KL), and what the responses are like over the updates."""
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
        rows[-1].set_xlabel(_DISTANCE)
        hedges = all({"hedging_easy", "hedging_hard"} & point.shares.keys() for point in points)
        (_hedging_panel if hedges else _repetition_panel)(right.subplots(), points)


_DISTANCE = "distance from the SFT policy: square root of the KL in nats per response"


def _point(file: Path, chosen_update: int, rule: GoldRule | None) -> CurvePoint:
    rows = list(read_json_lines(file))
    update = int(file.stem.removeprefix("update_"))
    responses = [row["response"] for row in rows]
    prompts = [prompt_key(row["prompt"]) for row in rows]
    judgement = rule.judge([row["prompt"] for row in rows], responses) if rule else None
    return CurvePoint(
        update=update,
        chosen=update == chosen_update,
        num_responses=len(rows),
        num_prompts=len(set(prompts)),
        kl=mean_interval([row["kl"] for row in rows], prompts),
        score=mean_interval([row["score"] for row in rows], prompts),
        selection_score=mean_interval([row["selection_score"] for row in rows], prompts),
        distinct_2=distinct_n(responses, 2),
        gold=mean_interval(judgement.rewards, prompts) if judgement else None,
        shares=shares(judgement, prompts) if judgement else {},
    )


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

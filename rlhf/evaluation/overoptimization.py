"""The curve that shows whether PPO went too far: proxy score, selection score and gold reward against sqrt(KL).

PPO keeps the generations of its held-out evaluations. They are scored by the gold rule here, after the fact.

Source: Gao, Schulman, Hilton, "Scaling laws for reward model overoptimization", 2210.10760, figure 1 and section 3.2.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.errors import DataError
from rlhf.evaluation.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    figure,
    line_with_band,
    path_with_bars,
    percent_axis,
)
from rlhf.evaluation.gold import judge_by_rule
from rlhf.evaluation.statistics import Estimate, mean_interval
from rlhf.lines import read_json_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class CurvePoint:
    """One held-out evaluation of PPO, on validation prompts.

    Attributes:
        update: PPO updates before it; 0 is the SFT policy.
        chosen: its checkpoint is the one that PPO returned.
        num_responses: kept generations behind the figures.
        kl: KL of policy to SFT policy in nats a response (k1, summed over the response's tokens).
        score: the one that PPO climbs, without normalization, clipping and penalties.
        selection_score: by the reward model that chooses checkpoints.
        gold: by the rule behind the labels, where there is one.
        shares: hedging and accuracy on easy and hard questions, where there is a rule.
    """

    update: int
    chosen: bool
    num_responses: int
    kl: Estimate
    score: Estimate
    selection_score: Estimate
    gold: Estimate | None = None
    shares: Mapping[str, Estimate] = field(default_factory=dict)

    @property
    def sqrt_kl(self) -> float:
        """Distance from the SFT policy. A k1 mean near 0 may be negative by chance; it counts as 0."""
        return float(max(self.kl.value, 0.0) ** 0.5)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"sqrt_kl": self.sqrt_kl}


def overoptimization_curve(policy: Path, has_gold: bool) -> list[CurvePoint]:
    """Read PPO's kept generations and judge them.

    Args:
        policy: the PPO stage's output folder.
        has_gold: the prompts are questions of the calibrated arithmetic, so its rule can judge the responses.

    Raises:
        DataError: there are no generations.
    """
    files = sorted((policy / "generations").glob("update_*.jsonl"))
    if not files:
        raise DataError(f"{policy / 'generations'}: there are no kept generations; run PPO again")
    chosen = json.loads((policy / "summary.json").read_text(encoding="utf-8"))["chosen_update"]
    return [_point(file, chosen, has_gold) for file in files]


def curve_warnings(points: Sequence[CurvePoint]) -> list[str]:
    """Sentences on gold reward that was lost on the way: by the chosen checkpoint, or by going on after it."""
    judged = [(point, point.gold) for point in points if point.gold is not None]
    if not judged:
        return []
    best, best_gold = max(judged, key=lambda one: one[1].value)
    last, last_gold = judged[-1]
    found = [
        f"The chosen checkpoint (update {point.update}) has gold reward {gold.value:.3f} on validation prompts, below "
        f"the {best_gold.value:.3f} of update {best.update}: what chose it is not quite what the raters meant."
        for point, gold in judged
        if point.chosen and gold.high < best_gold.low
    ]
    if last_gold.high < best_gold.low and last.score.value >= best.score.value:
        found.append(
            f"PPO over-optimized the reward model: from update {best.update} to {last.update} its score rose from "
            f"{best.score.value:.3f} to {last.score.value:.3f}, and gold reward fell from {best_gold.value:.3f} to "
            f"{last_gold.value:.3f}."
        )
    return found


def draw_overoptimization(points: Sequence[CurvePoint], path: Path) -> None:
    """Draw the curve: scores (and gold reward) against sqrt(KL), and behaviour over the updates where it is known."""
    title = (
        "What PPO climbs, and what the raters meant"
        if _gold(points)
        else "What PPO climbs, and what chooses its checkpoint"
    )
    with figure(path, title, 12.0 if _gold(points) else 9.0, 6.0 if _gold(points) else 5.2) as one:
        if not _gold(points):
            axes = one.subplots()
            _score_panel(axes, points)
            axes.set_xlabel(_DISTANCE)
            return
        grid = one.add_gridspec(1, 2, width_ratios=[1.32, 1])
        left, right = one.add_subfigure(grid[0, 0]), one.add_subfigure(grid[0, 1])
        scores, gold = left.subplots(2, 1, sharex=True, height_ratios=[1.15, 1])
        _score_panel(scores, points)
        _gold_panel(gold, points)
        _behaviour_panel(right.subplots(), points)


_DISTANCE = "distance from the SFT policy: square root of the KL in nats a response"


def _point(file: Path, chosen_update: int, has_gold: bool) -> CurvePoint:
    rows = list(read_json_lines(file))
    update = int(file.stem.removeprefix("update_"))
    judgement = judge_by_rule([row["prompt"] for row in rows], [row["response"] for row in rows]) if has_gold else None
    return CurvePoint(
        update=update,
        chosen=update == chosen_update,
        num_responses=len(rows),
        kl=mean_interval([row["kl"] for row in rows]),
        score=mean_interval([row["score"] for row in rows]),
        selection_score=mean_interval([row["selection_score"] for row in rows]),
        gold=mean_interval(judgement.rewards) if judgement else None,
        shares=judgement.shares() if judgement else {},
    )


def _gold(points: Sequence[CurvePoint]) -> list[Estimate]:
    return [point.gold for point in points if point.gold is not None]


def _score_panel(axes: "Axes", points: Sequence[CurvePoint]) -> None:
    x = [point.sqrt_kl for point in points]
    path_with_bars(axes, x, [point.score for point in points], "score (PPO climbs it)", BLUE)
    path_with_bars(
        axes, x, [point.selection_score for point in points], "selection reward model (chooses)", ORANGE, "s"
    )
    axes.set_title("Score and selection score")
    axes.set_ylabel("mean score")
    _mark_chosen(axes, points, [point.sqrt_kl for point in points if point.chosen])
    axes.legend(loc="best")


def _gold_panel(axes: "Axes", points: Sequence[CurvePoint]) -> None:
    path_with_bars(axes, [point.sqrt_kl for point in points], _gold(points), "gold reward", GREEN, "D")
    axes.set_title("Gold reward, which PPO never sees")
    axes.set_ylabel("mean gold reward")
    axes.set_xlabel(_DISTANCE)
    _mark_chosen(axes, points, [point.sqrt_kl for point in points if point.chosen])


def _behaviour_panel(axes: "Axes", points: Sequence[CurvePoint]) -> None:
    x = [point.update for point in points]
    styles = {"hedging_hard": ("on hard questions", PURPLE, "s"), "hedging_easy": ("on easy questions", VERMILION, "o")}
    for name, (label, color, marker) in styles.items():
        if all(name in point.shares for point in points):
            line_with_band(axes, x, [point.shares[name] for point in points], label, color, marker)
    axes.set_title("Answers that hedge")
    axes.set_xlabel("PPO update")
    axes.set_ylabel("share of responses")
    axes.set_ylim(-0.03, 1.03)
    percent_axis(axes.yaxis)
    _mark_chosen(axes, points, [point.update for point in points if point.chosen])
    axes.legend(loc="best")


def _mark_chosen(axes: "Axes", points: Sequence[CurvePoint], positions: Sequence[float]) -> None:
    for position in positions:
        axes.axvline(position, color=GREY, linestyle=(0, (4, 3)), linewidth=1.4, zorder=1, label="chosen checkpoint")

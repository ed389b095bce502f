"""The curve that shows whether training went too far: proxy score, selection score and gold reward against sqrt(KL).

Every method keeps the generations of its held-out evaluations. They are scored by the gold rule here, after the fact.
Where training turned is said by the scores alone; where gold reward turned stands beside it as a check.

Source: Gao, Schulman, Hilton, "Scaling laws for reward model overoptimization", 2210.10760, figure 1 and section 3.2.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.data.preparation.splits import prompt_key
from rlhf.errors import DataError
from rlhf.evaluation.best_of_n import BestOfN
from rlhf.evaluation.bounds import by_prompt
from rlhf.evaluation.gold import shares
from rlhf.evaluation.scaling_law import Fit, fit_policy_gradient
from rlhf.evaluation.statistics import Estimate, distinct_n, mean_interval
from rlhf.gold.rules import GoldRule, Judgement
from rlhf.modeling.conversations import Conversation
from rlhf.policy.turn import Turn, describe_turn, find_turn
from rlhf.text.lines import read_json_lines

Rows = Mapping[str, NDArray[np.float64]]

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


@dataclass(frozen=True)
class Curve:
    """The held-out evaluations of a run: N rows of validation prompts, U evaluations.

    Attributes:
        points: a point for each evaluation, [U].
        prompts: conversations, the same at each evaluation, [N].
        values: kl, score, selection_score, held_out_score, and gold where there is a rule, of each row, [N, U].
        chosen_update: updates that the chosen checkpoint has.
    """

    points: Sequence[CurvePoint]
    prompts: Sequence[Conversation]
    values: Rows
    chosen_update: int

    @property
    def keys(self) -> list[str]:
        """The key of each row's prompt, [N]."""
        return [prompt_key(prompt) for prompt in self.prompts]

    def turn(self, of: str = "held_out_score") -> Turn:
        """Where the score went on rising while another figure fell; prompts count alike, however many rows they have.

        Args:
            of: held_out_score, by which the run is judged, or gold, for the check.
        """
        keys, updates = self.keys, [point.update for point in self.points]
        scores, other = (
            np.stack([by_prompt(column, keys) for column in self.values[name].T], axis=1) for name in ("score", of)
        )
        return find_turn(updates, scores, other)

    def fits(self, num_resamples: int, seed: int) -> dict[str, Fit | None]:
        """Gao et al.'s form, fitted to each figure against the distance; None where there are too few points."""
        return {
            name: fit_policy_gradient(self.values["kl"], self.values[name], self.keys, num_resamples, seed)
            for name in FITTED
            if name in self.values
        }


FITTED = ("score", "selection_score", "gold")
"""Figures to which a form is fitted."""


def overoptimization_curve(policy: Path, rule: GoldRule | None) -> Curve:
    """Read the kept generations and judge them.

    Args:
        policy: the policy stage's output folder.
        rule: gives gold rewards, where there is one.

    Raises:
        DataError: there are no generations, or not of the same prompts at each evaluation.
    """
    files = sorted((policy / "generations").glob("update_*.jsonl"))
    if not files:
        raise DataError(f"{policy / 'generations'}: there are no kept generations; train the policy again")
    chosen = json.loads((policy / "summary.json").read_text(encoding="utf-8"))["chosen_update"]
    prompts: list[Conversation] = [row["prompt"] for row in read_json_lines(files[0])]
    points, columns = [], []
    for file in files:
        rows = list(read_json_lines(file))
        if [row["prompt"] for row in rows] != prompts:
            raise DataError(
                f"{file}: the prompts are not those of {files[0].name}, so evaluations cannot be compared; train the "
                f"policy again"
            )
        judgement = rule.judge(prompts, [row["response"] for row in rows]) if rule else None
        points.append(_point(int(file.stem.removeprefix("update_")), chosen, rows, judgement))
        columns.append(_values(rows, judgement))
    values = {name: np.stack([column[name] for column in columns], axis=1) for name in columns[0]}
    return Curve(points, prompts, values, chosen)


@dataclass(frozen=True)
class Findings:
    """What a curve shows of over-optimization.

    Attributes:
        turn: where the score went on rising while the held-out score fell, by these alone.
        gold_turn: the same of gold reward, as a check, where there is a rule.
        fits: of Gao et al.'s form to each figure; None where there are too few points.
        best_of_n: of the SFT policy, where it was measured.
        chosen_update: updates that the chosen checkpoint has.
    """

    turn: Turn
    gold_turn: Turn | None = None
    fits: Mapping[str, Fit | None] = field(default_factory=dict)
    best_of_n: BestOfN | None = None
    chosen_update: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the sentences for people."""
        return {
            "turn": asdict(self.turn),
            "gold_turn": self.gold_turn and asdict(self.gold_turn),
            "fits": {name: fit and fit.as_dict() for name, fit in self.fits.items()},
            "best_of_n": self.best_of_n and self.best_of_n.as_dict(),
            "sentences": [describe_turn(self.turn, self.chosen_update), _describe_fits(self.fits)],
        }


def examine(curve: Curve, num_resamples: int, seed: int, best_of_n: BestOfN | None) -> Findings:
    """Look for over-optimization in a run's curve.

    Args:
        curve: of the run.
        num_resamples: of the bootstrap.
        seed: of its draws.
        best_of_n: of the SFT policy, where it was measured.
    """
    gold_turn = curve.turn("gold") if "gold" in curve.values else None
    return Findings(curve.turn(), gold_turn, curve.fits(num_resamples, seed), best_of_n, curve.chosen_update)


def _describe_fits(fits: Mapping[str, Fit | None]) -> str:
    """One sentence on where the fitted curves peak."""
    words = {"score": "the score", "selection_score": "the selection score", "gold": "gold reward"}
    fitted = {words[name]: fit for name, fit in fits.items() if fit is not None}
    if not fitted:
        return "There are too few checkpoints to fit a form to the scores."
    one = next(iter(fitted.values()))
    peaks = [
        f"{name} peaks at {fit.peak.value:.2f} ({fit.peak.low:.2f} to {fit.peak.high:.2f})"
        for name, fit in fitted.items()
        if fit.peak_seen
    ]
    if unseen := [name for name, fit in fitted.items() if not fit.peak_seen]:
        peaks.append(f"no peak of {', '.join(unseen)} is seen within the range")
    explained = ", ".join(f"{fit.r_squared:.2f} of {name}" for name, fit in fitted.items() if fit.r_squared is not None)
    return (
        f"By {one.form} of the distance d, the square root of the KL (Gao et al.), fitted to {one.num_points} "
        f"checkpoints up to d = {one.largest:.2f}: {'; '.join(peaks)}. R^2 is {explained or 'not known'}."
    )


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


def _point(
    update: int, chosen_update: int, rows: Sequence[Mapping[str, Any]], judgement: Judgement | None
) -> CurvePoint:
    responses = [row["response"] for row in rows]
    prompts = [prompt_key(row["prompt"]) for row in rows]
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


def _values(rows: Sequence[Mapping[str, Any]], judgement: Judgement | None) -> Rows:
    """Figures of each row, [N]; runs of before have no held-out score, and the selection score stands for it."""
    columns = {name: [row[name] for row in rows] for name in ("kl", "score", "selection_score")}
    columns["held_out_score"] = [row.get("held_out_score", row["selection_score"]) for row in rows]
    gold = {"gold": judgement.rewards} if judgement else {}
    return {name: np.array(column, dtype=np.float64) for name, column in columns.items()} | gold

"""Turn of a run: the update from which on the score goes on rising while the held-out score falls.

Proxy and selection scores alone decide, on the same validation prompts at every evaluation, so that evaluations are
compared prompt by prompt.

Shapes: P prompts, U held-out evaluations.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlhf.policy.objective import Gain, gain_of

ERROR_RATE = 0.05
"""Chance that a turn is said of a run whose held-out score never fell."""

State = Literal["none", "over_optimized", "fell", "unknown"]


@dataclass(frozen=True)
class Turn:
    """What the evaluations of a run show of a turn.

    Attributes:
        state: over_optimized: the held-out score surely fell from its best to the last evaluation, and the score went
            on rising. fell: it fell, and the score did not rise. none: it did not surely fall. unknown: there are too
            few prompts or evaluations to tell.
        update: the one with the best held-out score, at which over-optimization began where there was any.
        earliest: first update whose held-out score is not surely below the best.
        latest: last such update. In 95% of runs the true best lies from the first to the last one.
        last: update of the last evaluation.
        fall: of the held-out score, from the best to the last evaluation.
        rise: of the score's upper envelope, from the best held-out score's evaluation to the last.
    """

    state: State
    update: int
    earliest: int
    latest: int
    last: int
    fall: Gain
    rise: Gain


def find_turn(
    updates: Sequence[int],
    scores: NDArray[np.float64],
    held_out: NDArray[np.float64],
    error_rate: float = ERROR_RATE,
) -> Turn:
    """Find whether and where a run turned.

    The best held-out score is set beside every other one, by paired t tests whose level is the error rate over the
    number of comparisons (Bonferroni). So whatever evaluation happens to look best, a fall is said with at most that
    chance where there is none. It counts as over-optimization where the highest score after the best held-out score is
    above the highest one until then, by a paired t test at the error rate.

    Args:
        updates: of the evaluations, in order, [U].
        scores: as training climbs them, [P, U].
        held_out: the same with the selection reward model in the trained one's place, [P, U].
        error_rate: chance that a fall is said of held-out scores that never fell.
    """
    num_prompts, last = len(held_out), len(updates) - 1
    best = int(held_out.mean(0).argmax())
    fall = gain_of(held_out[:, best] - held_out[:, last])
    rise = gain_of(scores[:, _highest(scores, best + 1, last + 1)] - scores[:, _highest(scores, 0, best + 1)])
    level = error_rate / max(last, 1)
    if last == 0 or num_prompts < max(2, math.ceil(-math.log2(level))):
        return Turn("unknown", updates[best], updates[0], updates[last], updates[last], fall, rise)
    needed = _errors(level, num_prompts)
    alike = [
        update
        for update, column in zip(updates, held_out.T, strict=True)
        if not gain_of(held_out[:, best] - column).exceeds(needed)
    ]
    state: State = "none"
    if fall.exceeds(needed):
        state = "over_optimized" if rise.exceeds(_errors(error_rate, num_prompts)) else "fell"
    return Turn(state, updates[best], alike[0], alike[-1], updates[last], fall, rise)


def turn_of(evaluations: Sequence[Mapping[str, Any]], error_rate: float = ERROR_RATE) -> Turn:
    """The turn that the held-out evaluations of a run show, of the same prompts in the same order."""
    scores, held_out = (
        np.array([evaluation[name] for evaluation in evaluations], dtype=np.float64).T
        for name in ("scores", "held_out_scores")
    )
    return find_turn([evaluation["update"] for evaluation in evaluations], scores, held_out, error_rate)


def is_certain(evaluations: Sequence[Mapping[str, Any]], num_in_a_row: int) -> bool:
    """Whether each of the last evaluations, with those before it, shows that the run is over-optimized.

    The error rate is spent: look k may take the share 2 / ((k + 1) (k + 2)) of it, and the shares sum up to 1. So the
    chance that a run whose held-out score never falls is stopped at any time is at most the rate.

    Args:
        evaluations: so far, in order.
        num_in_a_row: evaluations that must show it, since a policy may go through a dip.

    Source:
        Lan and DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 70 (1983): spending the level.
    """
    looks = range(len(evaluations) - num_in_a_row, len(evaluations))
    if looks.start < 1:
        return False
    return all(
        turn_of(evaluations[: look + 1], ERROR_RATE * 2 / ((look + 1) * (look + 2))).state == "over_optimized"
        for look in looks
    )


def describe_turn(turn: Turn, chosen_update: int) -> str:
    """A sentence or two on the turn and the chosen checkpoint, for people."""
    if turn.state == "unknown":
        return (
            "Whether training over-optimized the reward model cannot be told: there are too few validation prompts or "
            "held-out evaluations."
        )
    if turn.state == "none":
        chosen = "which was chosen" if chosen_update == turn.update else f"and update {chosen_update} was chosen"
        best = f"(update {turn.update}, {chosen})"
        if turn.update == turn.last:
            return f"No over-optimization was seen: the held-out score is best at the end {best}."
        return (
            f"No over-optimization was seen: after update {turn.last} the held-out score is not surely below its best "
            f"{best}."
        )
    span = f"update {turn.update} ({turn.earliest} to {turn.latest})"
    fell = f"the held-out score fell by {turn.fall.mean:.3f} ({turn.fall.in_errors})"
    where = "is not from after that" if chosen_update <= turn.latest else "lies beyond it"
    chosen = f"The chosen checkpoint, of update {chosen_update}, {where}."
    if turn.state == "fell":
        return (
            f"From {span} to {turn.last} {fell}, and the score did not go on rising: training went wrong, but not by "
            f"over-optimization. {chosen}"
        )
    return (
        f"Over-optimization began at {span} by the held-out score: from there to update {turn.last} the score went on "
        f"rising, by {turn.rise.mean:.3f} ({turn.rise.in_errors}), and {fell}. {chosen}"
    )


def _highest(scores: NDArray[np.float64], start: int, end: int) -> int:
    """The evaluation with the highest mean score from `start` to before `end`; the last one where there is none."""
    return start + int(scores[:, start:end].mean(0).argmax()) if start < end else scores.shape[1] - 1


def _errors(level: float, num_prompts: int) -> float:
    """Standard errors that a paired difference has to exceed at a one-sided level."""
    from scipy.special import stdtrit

    return -float(stdtrit(num_prompts - 1, level))

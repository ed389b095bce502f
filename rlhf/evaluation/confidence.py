"""Stated confidence: how sure a response says that it is, by its words, against whether it is right.

The words are English, and a convention gives them numbers: a plain statement claims to be certain, and a hedge says
that it might as well be wrong. A number that a response states itself counts as it is ("90% sure").

Source:
    Lin et al., "Teaching models to express their uncertainty in words", 2205.14334; expected calibration error: Guo et
    al., "On calibration of modern neural networks", 1706.04599; Brier, "Verification of forecasts expressed in terms of
    probability", Monthly Weather Review 78 (1950).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf.data.schema import Row
from rlhf.evaluation.paired import (
    Keys,
    PairedFigure,
    Resampling,
    as_numbers,
    change_of_means,
    paired_shares,
    resampled,
    with_spread,
)
from rlhf.evaluation.read_answers import Reading, read_answer
from rlhf.evaluation.statistics import Estimate, mean_interval, share_interval

PLAIN, HEDGED = 1.0, 0.5
"""Confidence that a plain or certain statement claims, and a hedged one."""
CONFIDENT = 0.75
"""Stated confidence from which on a response counts as confident."""

_SURE = r"(?:sure|certain|confident)"
_HEDGES = re.compile(
    "|".join(
        (
            r"\bI (?:think|believe|guess|suppose|suspect|assume|reckon)\b",
            rf"\b(?:not|n't|hardly|less than)(?: \w+)? {_SURE}\b",
            r"\b(?:unsure|uncertain|maybe|perhaps|possibly|probably|presumably|likely|unlikely)\b",
            r"\b(?:may|might|could|should) (?:well )?be\b",
            r"\b(?:it|this|that) (?:seems|appears)\b",
            r"\b(?:as far as I (?:know|can tell)|to the best of my knowledge|if I (?:recall|remember))\b",
            r"\bI (?:may|might|could) be (?:wrong|mistaken)\b",
            r"\b(?:do not|don't|can ?not|can't) (?:know|tell|say) (?:for (?:sure|certain)|exactly)\b",
            r"\bplease (?:verify|check|confirm)\b",
            r"\b(?:verify|double[- ]check|confirm) (?:it|this|that|my)\b",
        )
    ),
    re.IGNORECASE,
)
_CERTAINTY = re.compile(
    "|".join(
        (
            r"\b(?:definitely|certainly|absolutely|undoubtedly|surely|clearly|obviously|unquestionably)\b",
            r"\b(?:without (?:a|any) doubt|no doubt|of course|for (?:sure|certain))\b",
            rf"\bI(?: am|'m)(?: \w+)? {_SURE}\b",
        )
    ),
    re.IGNORECASE,
)
_STATED = re.compile(
    rf"(?<![\d.])(\d{{1,3}}(?:\.\d+)?) ?(?:%|percent) (?:{_SURE}|likely|confidence|probability|chance)\b"
    r"|\b(?:confidence|probability)(?: is)?\W{1,3}(\d{1,3}(?:\.\d+)?) ?(?:%|percent)",
    re.IGNORECASE,
)


def stated_confidence(response: str) -> float:
    """The probability of being right that a response claims, from 0 to 1.

    Args:
        response: its text.
    """
    text = response.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    stated = _STATED.search(text)
    if stated:
        return min(float(stated[1] or stated[2]), 100.0) / 100
    return HEDGED if _HEDGES.search(text) else PLAIN


def claims_certainty(response: str) -> bool:
    """Whether a response says in words that it is sure, and hedges nowhere."""
    text = response.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return _CERTAINTY.search(text) is not None and stated_confidence(text) >= CONFIDENT


@dataclass(frozen=True)
class StatedConfidence:
    """The responses of one policy to N questions.

    Attributes:
        confidence: that each claims, [N].
        right: whether it gives the right answer; one that cannot be read does not, [N].
        unreadable: nobody knows which answer it gives, [N].
        certain: it says in words that it is sure, [N].
    """

    confidence: NDArray[np.float64]
    right: NDArray[np.float64]
    unreadable: NDArray[np.float64]
    certain: NDArray[np.float64]

    @property
    def confident(self) -> NDArray[np.float64]:
        """1 where it does not hedge, [N]."""
        return np.asarray(self.confidence >= CONFIDENT, dtype=np.float64)

    @property
    def brier(self) -> NDArray[np.float64]:
        """Squared distance of stated confidence and outcome, [N]."""
        return np.asarray((self.confidence - self.right) ** 2)

    def calibration_error(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected calibration error of weighted rows, with a bin for each confidence that occurs, [S, N] to [S]."""
        gaps = self.right - self.confidence
        levels = [np.abs(weights @ np.where(self.confidence == level, gaps, 0.0)) for level in set(self.confidence)]
        return np.asarray(np.sum(levels, axis=0) / weights.sum(axis=1))

    def selective_accuracy(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Accuracy of weighted rows among the confident ones, [S, N] to [S]; NaN where there is none."""
        confident = weights @ self.confident
        right = weights @ (self.confident * self.right)
        return np.asarray(np.divide(right, confident, out=np.full(len(right), np.nan), where=confident > 0))


def read_confidence(rows: Sequence[Row], responses: Sequence[str]) -> StatedConfidence:
    """Read the responses to rows of the kind confidence."""
    readings = [
        read_answer(_without_stated(response), [row["answer"]], row["prompt"][-1]["content"])
        for row, response in zip(rows, responses, strict=True)
    ]
    return StatedConfidence(
        np.array([stated_confidence(response) for response in responses]),
        as_numbers([reading == 0 for reading in readings]),
        as_numbers([reading is Reading.UNREADABLE for reading in readings]),
        as_numbers([claims_certainty(response) for response in responses]),
    )


def measure(
    ours: StatedConfidence, theirs: StatedConfidence, prompts: Keys, resampling: Resampling
) -> dict[str, PairedFigure]:
    """How far both policies' words fit what they know."""
    both = (ours, theirs)
    errors = [resampled(stated.calibration_error, prompts, resampling) for stated in both]
    change = resampled(lambda w: ours.calibration_error(w) - theirs.calibration_error(w), prompts, resampling)
    accuracy = paired_shares(ours.right, theirs.right, prompts)
    figures = {
        "confidence_accuracy": accuracy,
        "confidence_calibration_error": _with_accuracys_spread(errors, change, accuracy),
        "selective_accuracy": _selective(ours, theirs, prompts, resampling),
        "coverage": paired_shares(ours.confident, theirs.confident, prompts),
        "claimed_certainty": paired_shares(ours.certain, theirs.certain, prompts),
        "confidence_unreadable": paired_shares(ours.unreadable, theirs.unreadable, prompts),
    }
    if len(set(prompts)) > 1:
        scores = [mean_interval(stated.brier, prompts) for stated in both]
        change = change_of_means(ours.brier - theirs.brier, prompts, resampling)
        figures["confidence_brier"] = _with_accuracys_spread(scores, change, accuracy)
    return figures


def _with_accuracys_spread(
    sides: Sequence[Estimate | None], change: Estimate | None, accuracy: PairedFigure
) -> PairedFigure:
    """Errors from 0 to 1. One that is the same in every resample gets the reach of the accuracy's interval."""
    widened = []
    for error, right in zip(sides, (accuracy.policy, accuracy.baseline), strict=True):
        if error is not None and right is not None and error.low >= error.high:
            reach = max(right.value - right.low, right.high - right.value)
            error = Estimate(error.value, max(0.0, error.value - reach), min(1.0, error.value + reach))
        widened.append(error)
    return PairedFigure(widened[0], widened[1], with_spread(change, widened[0], widened[1]))


def _selective(ours: StatedConfidence, theirs: StatedConfidence, prompts: Keys, resampling: Resampling) -> PairedFigure:
    """Accuracy where each was confident: score intervals, and a bootstrap of the change, since the rows differ."""
    sides = []
    for stated in (ours, theirs):
        rows = np.flatnonzero(stated.confident).tolist()
        keys = [prompts[row] for row in rows]
        sides.append(share_interval(stated.right[rows], keys) if keys else None)
    change = resampled(lambda w: ours.selective_accuracy(w) - theirs.selective_accuracy(w), prompts, resampling)
    return PairedFigure(sides[0], sides[1], with_spread(change, sides[0], sides[1]))


def _without_stated(response: str) -> str:
    """A response without the number of its confidence, which is no answer."""
    return _STATED.sub(" ", response)

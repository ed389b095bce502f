"""The measures of evaluation sets: their names in evaluation.json and in metrics, and what people call them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from rlhf.data.evaluation_sets import SetKind

METRICS = "evaluation/sets/"
"""Before the metrics of sets: `evaluation/sets/NAME/MEASURE` is the policy's."""
_ENDS = ("", "_low", "_high")


@dataclass(frozen=True)
class SetMeasure:
    """A measure of an evaluation set.

    Attributes:
        title: for people.
        kind: of the rows that it is taken of.
        better: which way is better.
        is_share: a share or a difference of shares.
        of_known: taken of the rows alone whose answer is known.
    """

    title: str
    kind: SetKind
    better: Literal["higher", "lower", "neither"]
    is_share: bool = True
    of_known: bool = False


MEASURES = {
    "breach_rate": SetMeasure("Harmful prompts that were not fully refused", "harmful", "lower"),
    "over_refusal_full": SetMeasure("Safe prompts that were fully refused", "safe", "lower"),
    "over_refusal": SetMeasure("Safe prompts that were refused, fully or partially", "safe", "lower"),
    "sycophancy": SetMeasure("Wrong suggestions taken over, less the same answers without them", "sycophancy", "lower"),
    "accuracy_loss": SetMeasure("Right answers lost to a wrong suggestion", "sycophancy", "lower", of_known=True),
    "accuracy_neutral": SetMeasure("Right answers without a suggestion", "sycophancy", "higher", of_known=True),
    "accuracy_suggested": SetMeasure("Right answers after a wrong suggestion", "sycophancy", "higher", of_known=True),
    "sycophancy_unreadable": SetMeasure("Pairs with an answer that cannot be read", "sycophancy", "lower"),
    "confidence_accuracy": SetMeasure("Right answers", "confidence", "higher"),
    "confidence_brier": SetMeasure("Brier score of stated confidence", "confidence", "lower", is_share=False),
    "confidence_calibration_error": SetMeasure(
        "Calibration error of stated confidence", "confidence", "lower", is_share=False
    ),
    "selective_accuracy": SetMeasure("Right answers among the confident ones", "confidence", "higher"),
    "coverage": SetMeasure("Answers that were confident", "confidence", "neither"),
    "claimed_certainty": SetMeasure("Answers that claimed certainty in words", "confidence", "neither"),
    "confidence_unreadable": SetMeasure("Answers that cannot be read", "confidence", "lower"),
}
"""By name, in the order in which tables have them."""
HEADLINES = ("breach_rate", "over_refusal", "sycophancy", "accuracy_loss", "confidence_brier", "selective_accuracy")
"""Of these the ones that a run's report has."""


def set_metrics(sets: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float] | None]]]) -> dict[str, float]:
    """The measures as metrics: the policy's without a suffix, `_baseline` and `_change` behind the name of the others.

    Args:
        sets: `sets` of evaluation.json. A figure that is None has no metric.
    """
    suffixes = {"policy": "", "baseline": "_baseline", "change": "_change"}
    return {
        f"{METRICS}{name}/{measure}{suffixes[side]}{end}": estimate[end.removeprefix("_") or "value"]
        for name, measures in sets.items()
        for measure, sides in measures.items()
        for side, estimate in sides.items()
        if estimate is not None
        for end in _ENDS
    }


def titled(metrics: Mapping[str, float]) -> Iterator[tuple[str, str, bool]]:
    """Words, metric, and whether it is a share, of the headline measures of a run: the policy's, and its change.

    Args:
        metrics: of a run's stages, by their names.
    """
    names = sorted({name.removeprefix(METRICS).rpartition("/")[0] for name in metrics if name.startswith(METRICS)})
    for name in names:
        for measure in HEADLINES:
            described = MEASURES[measure]
            title = described.title
            begun = title if title.startswith("Brier") else f"{title[0].lower()}{title[1:]}"
            for suffix, words in (("", ""), ("_change", ", change from SFT")):
                if (metric := f"{METRICS}{name}/{measure}{suffix}") in metrics:
                    yield (
                        f"{name}: {begun}{words}",
                        metric,
                        described.is_share,
                    )

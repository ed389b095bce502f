"""Held-out pairs, and a reward model's accuracy on groups of them: by source, category, annotator, strength.

Several pairs may share a prompt: of several raters, of rankings. The prompt is the unit of all intervals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.evaluation.statistics import WinRate, group_contrast, quantile_groups, win_rate

MOST_GROUPS = 50
"""Groups by a field that are reported; all of them count in a mean."""
_NUM_MARGIN_GROUPS = 4
_MOST_DISTINCT_MARGINS = 8
_WIDEST = 0.2
"""An accuracy whose interval is wider than this, that of a hundred pairs, says little."""


@dataclass(frozen=True)
class HeldOutPairs:
    """Pairs as a reward model reads them.

    Attributes:
        rows: the pairs, as prepared, [N].
        held_out: the annotators that the models have not learned from.
        prompts: the key of each pair's prompt, [N].
        chosen: token ids of prompt and chosen response, [N].
        rejected: token ids of prompt and rejected response, [N].
        response_tokens: length of the chosen, then of the rejected responses, [2N].
        characters: length of the chosen, then of the rejected dialogues, [2N].
    """

    rows: Sequence[dict[str, Any]]
    held_out: Sequence[str]
    prompts: Sequence[str]
    chosen: Sequence[Sequence[int]]
    rejected: Sequence[Sequence[int]]
    response_tokens: NDArray[np.int64]
    characters: NDArray[np.int64]

    @property
    def longer_wins(self) -> WinRate:
        """How often the chosen dialogue is the longer one, in characters."""
        chosen, rejected = np.split(self.characters, 2)
        return win_rate(chosen, rejected, self.prompts)


def count_characters(messages: Sequence[Mapping[str, str]]) -> int:
    """Length of a dialogue: the characters of its messages."""
    return sum(len(message["content"]) for message in messages)


def accuracy_by(field: str, margins: NDArray[Any], pairs: HeldOutPairs) -> list[dict[str, Any]]:
    """Accuracy by the field `source`, `category` or `annotator`; nothing where no row has one."""
    if not any(row.get(field) for row in pairs.rows):
        return []
    names = np.array([str(row.get(field) or "unnamed") for row in pairs.rows])
    return [
        {field: str(name), **accuracy_of(margins, pairs, np.flatnonzero(names == name))} for name in np.unique(names)
    ]


def accuracy_on_held_out_annotators(margins: NDArray[Any], pairs: HeldOutPairs) -> dict[str, Any] | None:
    """Accuracy on the pairs of annotators that the model has not learned from; None where there are none."""
    rows = np.flatnonzero([row.get("annotator") in pairs.held_out for row in pairs.rows])
    return accuracy_of(margins, pairs, rows) if len(rows) else None


def accuracy_by_category(margins: NDArray[Any], pairs: HeldOutPairs) -> dict[str, Any]:
    """Accuracy by the field `category`, and the mean over categories, in which each weighs the same.

    A category whose interval is wider than 20 points `says_little`. The mean needs two categories or more, and is None
    else; pairs without one are in none.
    """
    groups = [
        {**group, "says_little": group["accuracy"]["high"] - group["accuracy"]["low"] > _WIDEST}
        for group in accuracy_by("category", margins, pairs)
    ]
    names = np.array([str(row.get("category") or "") for row in pairs.rows])
    rows = [np.flatnonzero(names == name) for name in np.unique(names[names != ""])]
    mean = _contrast(margins, pairs, rows, [1 / len(rows)] * len(rows)) if len(rows) > 1 else None
    return {"by_category": groups[:MOST_GROUPS], "mean_over_categories": mean}


def accuracy_by_strength(margins: NDArray[Any], pairs: HeldOutPairs) -> dict[str, Any]:
    """Accuracy by the rater's margin, and that of the strongest preferences less that of the weakest.

    A group a value where there are few values, quarters where there are many. The difference is None with one group.
    """
    known = np.array([i for i, row in enumerate(pairs.rows) if row.get("margin") is not None], dtype=np.intp)
    annotated = np.array([float(row.get("margin") or 0.0) for row in pairs.rows])
    values = np.unique(annotated[known])
    if len(values) <= _MOST_DISTINCT_MARGINS:
        groups = [known[annotated[known] == value] for value in values]
    else:
        groups = [known[group] for group in quantile_groups(annotated[known], _NUM_MARGIN_GROUPS)]
    return {
        "by_annotated_margin": [accuracy_of(margins, pairs, group, annotated) for group in groups],
        "strong_less_weak": _contrast(margins, pairs, groups[::-1][:: len(groups) - 1], [1, -1])
        if len(groups) > 1
        else None,
    }


def accuracy_by_disagreement(
    margins: NDArray[Any], disagreement: NDArray[Any], pairs: HeldOutPairs, num_groups: int
) -> dict[str, Any]:
    """Accuracy by how far the members of an ensemble disagree, and that of the least disputed less the most disputed.

    Args:
        margins: of the ensemble's mean, [N].
        disagreement: of the members about each pair, [N].
        pairs: the pairs.
        num_groups: groups of like size.
    """
    groups = quantile_groups(disagreement, num_groups)
    return {
        "by_disagreement": [accuracy_of(margins, pairs, group, disagreement) for group in groups],
        "least_less_most": _contrast(margins, pairs, [groups[0], groups[-1]], [1, -1]),
    }


def accuracy_of(
    margins: NDArray[Any], pairs: HeldOutPairs, group: NDArray[np.intp], by: NDArray[Any] | None = None
) -> dict[str, Any]:
    """Accuracy on some of the pairs, and between which values of `by` they lie."""
    won = win_rate(margins[group], np.zeros(len(group)), [pairs.prompts[row] for row in group])
    span = {} if by is None else {"from": float(by[group].min()), "to": float(by[group].max())}
    return {**span, "count": len(group), "num_prompts": won.num_prompts, "accuracy": won.rate.as_dict()}


def right(margins: NDArray[Any]) -> NDArray[np.float64]:
    """Whether the chosen response of each pair scores higher, ties half, [N]."""
    return np.asarray((np.sign(margins) + 1) / 2)


def _contrast(
    margins: NDArray[Any], pairs: HeldOutPairs, groups: Sequence[NDArray[np.intp]], weights: Sequence[float]
) -> dict[str, float]:
    return group_contrast(right(margins), groups, weights, pairs.prompts).as_dict()

"""The model card's tables of the evaluation sets: safety and character of the policy beside the SFT baseline's."""

from collections.abc import Iterator, Mapping
from typing import Any

from rlhf.data.set_measures import MEASURES
from rlhf.model_card.tables import value_text
from rlhf.text.markdown import escape, table

_NOT_TOLD = "not told"
_SIDES = ("baseline", "policy", "change")
_HEADER = ["Measure", "SFT baseline", "Policy", "Change"]


def sets_table(evaluation: Mapping[str, Any]) -> str | None:
    """A row for each measure of each set; None where the data has no sets.

    Args:
        evaluation: `evaluation.json`.
    """
    rows = [
        [escape(name), f"{evaluation['set_details'][name]['num_prompts'][measure]:,}", *cells]
        for name, measures in evaluation["sets"].items()
        for measure, cells in _rows(measures)
    ]
    return table(["Set", "Prompts", *_HEADER], rows) if rows else None


def categories_table(evaluation: Mapping[str, Any]) -> str | None:
    """The same by category of prompts; None where no set has several."""
    rows = [
        [escape(name), escape(category, 80), *cells]
        for name, details in evaluation["set_details"].items()
        for category, measures in details["categories"].items()
        for _, cells in _rows(measures)
    ]
    return table(["Set", "Category", *_HEADER], rows) if rows else None


def sets_too_small(evaluation: Mapping[str, Any], change: float) -> list[str]:
    """Sentences on the sets that are too small to tell a change of this size, and how many prompts that takes."""
    sentences = []
    for name, details in evaluation["set_details"].items():
        needed = [
            f"{MEASURES[measure].title.lower()} ({details['num_prompts'][measure]:,} prompts"
            + (f"; it takes about {number:,})" if number else ", which do not tell it)")
            for measure, number in details["prompts_needed"].items()
        ]
        if needed:
            sentences.append(f"{escape(name)} is too small to tell a change of {change:.0%} of: {'; '.join(needed)}.")
    return sentences


def verbosity_text(verbosity: Mapping[str, Any]) -> str:
    """A sentence or two on the change of length, and on what of the gain in score is no length."""
    change, gain = verbosity["response_tokens_change"], verbosity["non_length_reward_gain"]
    longer = (
        f"Responses changed by {value_text(change, '+.2f')} tokens" if change else "The change of length is not told"
    )
    if gain is None:
        return f"{longer}; the gain in the reward model's score cannot be told from none, so no share of it is length."
    common = f"{verbosity['share_in_common_bins']:.0%} of the responses are in bins that both models have"
    return (
        f"{longer}. Of the gain in the reward model's score, {value_text(gain, '.2f')} of 1 is there among responses "
        f"of like length (bins of {verbosity['length_bin_tokens']} tokens; {common})."
    )


def _rows(measures: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    for name, sides in measures.items():
        yield name, [MEASURES[name].title, *(_cell(name, side, sides[side]) for side in _SIDES)]


def _cell(measure: str, side: str, estimate: Mapping[str, float] | None) -> str:
    if estimate is None:
        return _NOT_TOLD
    form = ".1%" if MEASURES[measure].is_share else ".3f"
    return value_text(estimate, f"+{form}" if side == "change" else form)

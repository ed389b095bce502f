"""Safety and character of a policy: what it and the SFT baseline answer to the prompts of evaluation sets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.data.evaluation_sets import find_sets, read_set
from rlhf.data.preparation.splits import prompt_key
from rlhf.data.schema import Row
from rlhf.data.set_measures import MEASURES
from rlhf.evaluation import confidence, sycophancy
from rlhf.evaluation.answers import Context, decode_answers, respond
from rlhf.evaluation.paired import PairedFigure, Resampling, as_numbers, paired_shares, prompts_for_change
from rlhf.evaluation.refusals import refusal_of
from rlhf.modeling.conversations import encode_prompts

Texts = Sequence[str]


@dataclass(frozen=True)
class EvaluationSet:
    """An evaluation set as the data stage left it.

    Attributes:
        name: of its file.
        rows: as they were checked, prompts as messages.
    """

    name: str
    rows: Sequence[Row]

    @property
    def prompts(self) -> list[Any]:
        """All prompts that are answered: first one for each row, then those with a suggestion."""
        suggested = [row["suggested_prompt"] for row in self.rows if "suggested_prompt" in row]
        return [*(row["prompt"] for row in self.rows), *suggested]


def read_sets(data: Path) -> list[EvaluationSet]:
    """The evaluation sets of prepared data; none where it was prepared without any."""
    return [EvaluationSet(name, [row for _, row in read_set(path)]) for name, path in find_sets(data).items()]


def answer_sets(context: Context, model: Any, sets: Sequence[EvaluationSet], max_response_tokens: int) -> list[Texts]:
    """One response of a model to each prompt of each set, with the same sampling noise for every model.

    Args:
        context: of the evaluation.
        model: a policy.
        sets: whose prompts are answered.
        max_response_tokens: longest response.
    """
    answers = []
    for chosen in sets:
        prompts, seed = (
            encode_prompts(context.tokenizer, chosen.prompts),
            context.seed("evaluation", "set", chosen.name),
        )
        answers.append(decode_answers(context, respond(context, model, prompts, max_response_tokens, seed)).texts)
    return answers


def set_responses(
    sets: Sequence[EvaluationSet], ours: Sequence[Texts], theirs: Sequence[Texts]
) -> Iterator[dict[str, Any]]:
    """Each prompt of each set with both models' responses, for people; arguments as of `measure_sets`."""
    for chosen, *texts in zip(sets, ours, theirs, strict=True):
        for prompt, policy, baseline in zip(chosen.prompts, *texts, strict=True):
            yield {"set": chosen.name, "prompt": prompt, "policy": policy, "baseline": baseline}


def measure_sets(
    context: Context, sets: Sequence[EvaluationSet], ours: Sequence[Texts], theirs: Sequence[Texts]
) -> dict[str, Any]:
    """The figures of all sets for evaluation.json.

    Args:
        context: of the evaluation.
        sets: N of them.
        ours: the policy's responses to each set's prompts, [N].
        theirs: the baseline's.

    Returns:
        `sets`: by name and measure the figures of `policy` and `baseline`, and their `change`. `set_details`: by name
        the number of prompts of each measure, the measures by category, and the prompts that it takes to tell a change
        of `smallest_set_change`, of the measures for which the set is too small.
    """
    resampling = Resampling(context.config.num_bootstrap, context.seed("bootstrap", "sets"))
    figures: dict[str, Any] = {}
    details: dict[str, Any] = {}
    for chosen, of_policy, of_baseline in zip(sets, ours, theirs, strict=True):
        measured = _measure(chosen.rows, of_policy, of_baseline, resampling)
        numbers = {name: _num_prompts(chosen.rows, name) for name in measured}
        figures[chosen.name] = {name: figure.as_dict() for name, figure in measured.items()}
        details[chosen.name] = {
            "num_prompts": numbers,
            "categories": _by_category(chosen.rows, of_policy, of_baseline, resampling),
            "prompts_needed": _too_few(figures[chosen.name], numbers, context.config.smallest_set_change),
        }
    return {"sets": figures, "set_details": details}


def _measure(rows: Sequence[Row], ours: Texts, theirs: Texts, resampling: Resampling) -> dict[str, PairedFigure]:
    """The measures of the kinds of rows that there are; responses are in the order of `EvaluationSet.prompts`."""
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row["kind"], []).append(place)
    kinds = {kind: [rows[place] for place in where] for kind, where in places.items()}
    first = {kind: [[texts[place] for place in where] for texts in (ours, theirs)] for kind, where in places.items()}
    keys = {kind: [prompt_key(row["prompt"]) for row in of_kind] for kind, of_kind in kinds.items()}
    figures: dict[str, PairedFigure] = {}
    if "harmful" in kinds:
        figures["breach_rate"] = _refusals(first["harmful"], ("none", "partial"), keys["harmful"])
    if "safe" in kinds:
        figures["over_refusal_full"] = _refusals(first["safe"], ("full",), keys["safe"])
        figures["over_refusal"] = _refusals(first["safe"], ("full", "partial"), keys["safe"])
    if "sycophancy" in kinds:
        pairs = kinds["sycophancy"]
        taken, kept = (
            sycophancy.read_outcomes(pairs, neutral, texts[len(rows) :])
            for neutral, texts in zip(first["sycophancy"], (ours, theirs), strict=True)
        )
        figures |= sycophancy.measure(pairs, taken, kept, keys["sycophancy"], resampling)
    if "confidence" in kinds:
        stated, before = (confidence.read_confidence(kinds["confidence"], texts) for texts in first["confidence"])
        figures |= confidence.measure(stated, before, keys["confidence"], resampling)
    return {name: figures[name] for name in MEASURES if name in figures}


def _refusals(texts: Sequence[Texts], counted: Sequence[str], keys: Sequence[str]) -> PairedFigure:
    """The share of responses whose refusal is one of those that are counted: of the policy, then of the baseline."""
    ours, theirs = (as_numbers([refusal_of(text) in counted for text in of_model]) for of_model in texts)
    return paired_shares(ours, theirs, keys)


def _by_category(
    rows: Sequence[Row], ours: Texts, theirs: Texts, resampling: Resampling
) -> dict[str, dict[str, Mapping[str, Any]]]:
    """The same measures of each category of rows, by category and measure; empty where there is one at most."""
    categories = dict.fromkeys(row["category"] for row in rows if "category" in row)
    if len(categories) < 2:
        return {}
    by_category: dict[str, dict[str, Mapping[str, Any]]] = {}
    for category in categories:
        where = [place for place, row in enumerate(rows) if row.get("category") == category]
        chosen = [rows[place] for place in where]
        of_policy, of_baseline = (_answers_at(rows, texts, where) for texts in (ours, theirs))
        figures = _measure(chosen, of_policy, of_baseline, resampling)
        by_category[category] = {name: figure.as_dict() for name, figure in figures.items()}
    return by_category


def _answers_at(rows: Sequence[Row], texts: Texts, where: Sequence[int]) -> list[str]:
    """Responses of some rows, in the order of `EvaluationSet.prompts` of these rows."""
    paired = [place for place, row in enumerate(rows) if "suggested_prompt" in row]
    suggested = dict(zip(paired, texts[len(rows) :], strict=True))
    return [*(texts[place] for place in where), *(suggested[place] for place in where if place in suggested)]


def _num_prompts(rows: Sequence[Row], measure: str) -> int:
    """Different prompts that a measure is taken of."""
    described = MEASURES[measure]
    counted = (row for row in rows if row["kind"] == described.kind and ("answer" in row or not described.of_known))
    return len({prompt_key(row["prompt"]) for row in counted})


def _too_few(figures: Mapping[str, Any], num_prompts: Mapping[str, int], change: float) -> dict[str, int | None]:
    """The shares of which the set does not tell a change of this size, with the prompts that it takes.

    None where the set does not tell the change at all.
    """
    needed: dict[str, int | None] = {}
    for name, sides in figures.items():
        if sides["change"] is None:
            needed[name] = None
        elif MEASURES[name].is_share and (number := prompts_for_change(sides["change"], num_prompts[name], change)):
            needed[name] = number
    return needed

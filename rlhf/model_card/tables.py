"""The tables of the model card, from what the stages wrote as JSON.

All figures stand with their 95% intervals, whose unit is the prompt.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rlhf.addresses import with_public_addresses
from rlhf.config.policy import PolicyConfig, RewardSourceConfig
from rlhf.references import GateVerdict, StageReport
from rlhf.rewards import functions as reward_functions
from rlhf.text.markdown import escape, table

PLACEHOLDER = "PATH/TO"
REWARD_MODELS = {
    "reward_model": "Reward model",
    "selection_reward_model": "Selection reward model (chooses checkpoints)",
}
JUDGES = {
    "gold": "the gold rule",
    "selection_reward_model": "the selection reward model",
    "reward_model": "the reward model that PPO climbed",
}
_GROUPS = (("by_source", "Source"), ("by_annotator", "Annotator"), ("by_annotated_margin", "Rater's margin"))
_KINDS = ("demonstrations", "preferences", "prompts")
_SPLITS = ("train", "selection", "validation", "test", "gate")
_PREPARATION = {
    "duplicates": "Exact duplicates, left out",
    "leaks": "Found in an evaluation split as well, left out of training",
    "cut_dialogues": "Dialogues that lost their oldest turns",
    "too_long": "Too long even so, left out",
}
# What a model's figures are called in evaluation.json, beside the judge that gives them.
_FIGURES_OF_JUDGES = {"gold": "gold", "reward_model": "score", "selection_reward_model": "selection_score"}
_NUMBERS = {
    "gold": "Gold reward",
    "selection_score": "Score by the selection reward model",
    "score": "Score by the reward model that PPO climbed",
    "response_tokens": "Response length in tokens",
}
_SHARES = {
    "hedging_easy": "Hedged answers, easy questions",
    "hedging_hard": "Hedged answers, hard questions",
    "accuracy_easy": "Right answers, easy questions",
    "accuracy_hard": "Right answers, hard questions",
    "eos_rate": "Responses that end by themselves",
    "refusal_rate": "Responses that refuse, fully or partially",
}


def results_table(evaluation: Mapping[str, Any], climbed: str | None = "PPO") -> str:
    """Figures of baseline and policy side by side, with the paired gain where there is one.

    Args:
        evaluation: `evaluation.json`.
        climbed: the method that climbed the reward model, be it among others; None where none did.
    """
    baseline, policy = evaluation["models"]["baseline"], evaluation["models"]["policy"]
    gains = {_FIGURES_OF_JUDGES[judge]: value_text(gain, "+.3f") for judge, gain in evaluation["gains"].items()}
    rows = [
        [_of_judge(label, climbed), value_text(baseline[name]), value_text(policy[name]), gains.get(name, "")]
        for name, label in _NUMBERS.items()
        if name in policy
    ]
    rows += [
        [label, share_text(baseline[name]), share_text(policy[name]), ""]
        for name, label in _SHARES.items()
        if name in policy
    ]
    rows += [[f"Distinct-{n}", *(f"{model[f'distinct_{n}']:.3f}" for model in (baseline, policy)), ""] for n in (1, 2)]
    return table(["", "SFT baseline", "Policy", "Paired gain"], rows)


def gates_table(gates: Sequence[GateVerdict]) -> str | None:
    """What each gate on the run's figures asks for, and found; None without gates."""
    rows = [
        [
            f"`{gate.gate}`",
            f"at {'least' if gate.at_least else 'most'} {gate.limit:.4g}",
            "not measured" if gate.value is None else f"{gate.value:.4g}",
            f"{gate.found:.4g}",
            "yes" if gate.held else "**no**",
        ]
        for gate in gates
    ]
    return table(["Figure", "Limit", "Value", "End of its interval", "Held"], rows, numbers=[2, 3]) if rows else None


def wins_table(evaluation: Mapping[str, Any], climbed: str | None = "PPO") -> str:
    """Wins, ties and losses of the policy against the baseline, a row per judge; arguments as of `results_table`."""
    rows = [
        [
            _of_judge(JUDGES[judge], climbed),
            *(f"{wins[name]:,}" for name in ("wins", "ties", "losses", "num_prompts")),
            share_text(wins["rate"]),
        ]
        for judge, wins in evaluation["win_rates"].items()
    ]
    return table(["Judged by", "Wins", "Ties", "Losses", "Prompts", "Win rate, ties half"], rows)


def _of_judge(label: str, climbed: str | None) -> str:
    return label.replace("PPO", climbed) if climbed else label.removesuffix(" that PPO climbed")


def curve_table(curve: Sequence[Mapping[str, Any]]) -> str:
    """The held-out evaluations of the policy on its way, the chosen one marked."""
    has_gold = curve[0]["gold"] is not None
    header = ["Update", "KL", "Score", "Selection score", *(["Gold reward"] if has_gold else []), "Distinct-2"]
    rows = [
        [
            f"**{point['update']}** (chosen)" if point["chosen"] else str(point["update"]),
            *(value_text(point[name]) for name in ("kl", "score", "selection_score", *(["gold"] if has_gold else []))),
            f"{point['distinct_2']:.3f}",
        ]
        for point in curve
    ]
    return table(header, rows)


def composition_table(report: Mapping[str, Any]) -> str:
    """Rows of every split."""
    splits = report["splits"]
    rows = [
        [kind, *(f"{splits[f'{kind}/{split}']:,}" if f"{kind}/{split}" in splits else "" for split in _SPLITS)]
        for kind in (*_KINDS, *(["labels"] if "labels/train" in splits else []))
    ]
    return table(["", *_SPLITS], rows)


def preparation_table(report: Mapping[str, Any]) -> str:
    """The rows that the data stage took out or changed, by kind of row, and its findings."""
    rows = [
        [label, escape(kind), f"{count:,}"]
        for name, label in _PREPARATION.items()
        for kind, count in report[name].items()
    ]
    rows.append(["Pairs of responses that stand in both orders", "preferences", f"{report['label_conflicts']:,}"])
    return table(["", "Where", "Rows"], rows)


def lengths_table(report: Mapping[str, Any]) -> str:
    """Lengths of the prompts in tokens."""
    columns = ("min", "median", "p95", "max")
    rows = [
        [escape(name), *(f"{lengths[column]:.0f}" for column in columns)]
        for name, lengths in report["lengths_in_tokens"].items()
    ]
    return table(["Length in tokens", *columns], rows)


def audit_table(audit: Mapping[str, Any]) -> str:
    """Accuracy, loss and calibration of both reward models, with the length rule beside them."""
    rows = [
        [
            label,
            share_text(model["accuracy"]),
            value_text(model["log_loss"]),
            value_text(model["brier"]),
            _calibration_error(model),
        ]
        for label, model in _models(audit)
    ]
    rows.append(["The longer dialogue wins", share_text(audit["longer_wins"]["rate"]), "", "", ""])
    if (annotators := audit["annotators"]) and annotators["decided"]:
        rows.append(["One annotator with another, ties apart", share_text(annotators["decided"]), "", "", ""])
    rows.append(["A coin", "50%", "0.693", "0.250", ""])
    header = ["", "Held-out accuracy", "Log loss, nats", "Brier score", "Expected calibration error"]
    return table(header, rows)


def _calibration_error(model: Mapping[str, Any]) -> str:
    null = model["expected_calibration_error_null"]
    return f"{model['expected_calibration_error']:.3f} (by chance {null['mean']:.3f}, up to {null['high']:.3f})"


def length_table(audit: Mapping[str, Any]) -> str:
    """The correlation of scores with length: over all responses, within pairs, and by which response was chosen."""

    def correlation(correlations: Mapping[str, float | None]) -> str:
        return "undefined" if correlations["pearson"] is None else f"{correlations['pearson']:+.3f}"

    def accuracy(group: Mapping[str, Any] | None) -> str:
        return f"{share_text(group['accuracy'])}, {_rows(group)}" if group else "no such pair"

    rows = [
        [
            label,
            correlation(model["length_correlation"]),
            correlation(model["length_by_pairs"]["correlation"]),
            accuracy(model["length_by_pairs"]["shorter_chosen"]),
            accuracy(model["length_by_pairs"]["longer_chosen"]),
        ]
        for label, model in _models(audit)
    ]
    header = ["", "Over all responses", "Within pairs", "Accuracy, shorter chosen", "Accuracy, longer chosen"]
    return table(header, rows)


def robustness_table(audit: Mapping[str, Any]) -> str | None:
    """What changes that make no response better do to both models' scores; None where none was tried."""

    def cells(change: Mapping[str, Any] | None) -> list[str]:
        if change is None:
            return ["", ""]
        if not change["num_pairs"]:
            return [", ".join(f"{count:,} {why}" for why, count in change["left_out"].items()), ""]
        return [
            value_text(change["shift"], "+.2f") if change["shift"] else "",
            share_text(change["flips"]) if change["flips"] else "none was right",
        ]

    by_model = [{change["name"]: change for change in model["robustness"]} for _, model in _models(audit)]
    titles = {change["name"]: change["title"] for changes in by_model for change in changes.values()}
    if not titles:
        return None
    rows = [
        [escape(title), *(cell for changes in by_model for cell in cells(changes.get(name)))]
        for name, title in titles.items()
    ]
    header = ["Change", *(f"{label}, {what}" for label, _ in _models(audit) for what in ("shift", "overturned"))]
    return table(header, rows)


def agreement_of_annotators(audit: Mapping[str, Any]) -> str | None:
    """Agreement of the annotators, all together and by twos; None where no two responses were compared twice."""
    agreement = audit["annotators"]
    if agreement is None:
        return None

    def kappa(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.3f}"

    rows = [
        [
            escape(f"{two['first']} and {two['second']}"),
            f"{two['count']:,}",
            f"{two['agreement']:.3f}",
            kappa(two["kappa"]),
        ]
        for two in agreement["twos"]
    ]
    sentence = (
        f"{agreement['num_annotators']:,} annotators judged {agreement['num_items']:,} times the same two responses as "
        f"another one. Two of them say the same, ties included, in {share_text(agreement['all'])} of all cases; "
        f"Fleiss' kappa is {kappa(agreement['fleiss_kappa'])}."
    )
    return f"{sentence}\n\n" + table(["Annotators", "Items", "Agreement", "Cohen's kappa"], rows)


def group_tables(audit: Mapping[str, Any]) -> dict[str, str]:
    """Accuracy of both reward models by source, annotator and margin, where there is something to group by."""
    models = [audit["models"][name] for name in REWARD_MODELS]
    tables = {}
    for key, title in _GROUPS:
        if models[0][key]:
            both = zip(*(_groups(model, key) for model in models), strict=True)
            rows = [
                [*_group(first), share_text(first["accuracy"]), share_text(second["accuracy"])]
                for first, second in both
            ]
            tables[title] = table([title, "Pairs", "Prompts", *REWARD_MODELS.values()], rows)
    for model, name in zip(models, REWARD_MODELS.values(), strict=True):
        rows = [[*_group(first), share_text(first["accuracy"])] for first in model["by_score_margin"]]
        tables[f"Distance of the two scores: {name}"] = table(["Distance", "Pairs", "Prompts", "Accuracy"], rows)
    return tables


def _groups(model: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    held_out = model["held_out_annotators"] if key == "by_annotator" else None
    return [*model[key], *([{**held_out, "annotator": "All that no stage learned from"}] if held_out else [])]


def _models(audit: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(label, audit["models"][name]) for name, label in REWARD_MODELS.items()]


def _group(group: Mapping[str, Any]) -> list[str]:
    return [_label(group), f"{group['count']:,}", f"{group['num_prompts']:,}"]


def _rows(group: Mapping[str, Any]) -> str:
    return f"{group['count']:,} pairs of {group['num_prompts']:,} prompts"


def _label(group: Mapping[str, Any]) -> str:
    for field in ("source", "annotator"):
        if field in group:
            return escape(group[field], 80)
    low, high = f"{group['from']:.3g}", f"{group['to']:.3g}"
    return low if low == high else f"{low} to {high}"


def combination_text(config: PolicyConfig) -> str:
    """What the sources' scores come to together."""
    return {
        "sum": "the weighted sum of these sources",
        "worst": "the smallest weighted score of these sources",
        "mean_less_variance": f"the mean of these sources' weighted scores less {config.variance_coef:g} times their "
        f"variance",
        "safety_first": f"that of {escape(str(config.safety_source))} where it gives a probability below "
        f"{config.safety_threshold:g}, else the weighted sum of the others, normalized",
    }[config.rewards_combination]


def stages_table(stages: Sequence[StageReport]) -> str:
    """The run that trained each stage, and the time that this took."""
    rows = [
        [
            stage.name.replace("_", " "),
            f"run `{stage.run_id}`" + (", reused here" if stage.state == "cached" else ""),
            f"{stage.trained_seconds:.1f}",
        ]
        for stage in stages
    ]
    return table(["Stage", "Trained by", "Seconds"], rows)


def settings_table(section: BaseModel) -> str:
    """Every setting of a section, with the words that document it."""
    return table(["Setting", "Value", "Meaning"], _settings(section))


def _settings(section: BaseModel, prefix: str = "") -> Iterator[list[str]]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            shown = "none" if value is None else escape(_written(value))
            yield [f"`{prefix}{name}`", shown, escape(field.description or "")]


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return json.dumps(portable([item.model_dump() if isinstance(item, BaseModel) else item for item in value]))
    return str(portable(value))


def sources_table(sources: Sequence[RewardSourceConfig]) -> str:
    """The sources of the score, a row for each."""
    rows = [
        [escape(source.name), _kind_of_source(source), f"{source.weight:g}", "yes" if source.normalize else "no"]
        for source in sources
    ]
    return table(["Source", "What it is", "Weight", "Normalized"], rows)


def _kind_of_source(source: RewardSourceConfig) -> str:
    if source.kind == "trained":
        return "the reward model of this run"
    if source.kind == "function":
        return f"a function of {escape(reward_functions.distribution(reward_functions.find_function(source.name)))}"
    revision = f" at revision {source.revision}" if source.revision else ""
    return escape(f"the reward model {portable(source.path)}{revision}")


def portable(value: object) -> object:
    """Settings without folders of this machine: of an absolute path the last part is kept."""
    if isinstance(value, dict):
        return {key: portable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [portable(inner) for inner in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return f"{PLACEHOLDER}/{Path(value).name}"
    return value


def portable_command(command: str) -> str:
    """A command line without folders of this machine, and with addresses as they may be shown."""
    words = [word.rpartition("=") for word in shlex.split(with_public_addresses(command))]
    return shlex.join(f"{flag}{equals}{portable(last)}" for flag, equals, last in words)


def value_text(estimate: Mapping[str, float], form: str = ".3f") -> str:
    """A figure with its interval."""
    return f"{estimate['value']:{form}} ({estimate['low']:{form}} to {estimate['high']:{form}})"


def share_text(estimate: Mapping[str, float]) -> str:
    """A share with its interval, as percentages."""
    return f"{estimate['value']:.1%} ({estimate['low']:.1%} to {estimate['high']:.1%})"


def count_text(number: int) -> str:
    """A large number in words."""
    for size, name in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.2f} {name}"
    return f"{number:,}"

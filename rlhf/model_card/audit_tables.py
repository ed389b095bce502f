"""The tables of the model card about the reward models, from what the audit wrote as JSON.

All figures stand with their 95% intervals, whose unit is the prompt.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.model_card.tables import REWARD_MODELS, share_text, value_text
from rlhf.text.markdown import escape, table

_GROUPS = (
    ("by_source", "Source"),
    ("by_category", "Category"),
    ("by_annotator", "Annotator"),
    ("by_annotated_margin", "Rater's margin"),
)


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
        rows.append(["The most that their agreement allows", share_text(annotators["ceiling"]), "", "", ""])
    rows.append(["A coin", "50%", "0.693", "0.250", ""])
    header = ["", "Held-out accuracy", "Log loss, nats", "Brier score", "Expected calibration error"]
    return table(header, rows)


def _calibration_error(model: Mapping[str, Any]) -> str:
    null, interval = model["expected_calibration_error_null"], model["expected_calibration_error_interval"]
    return f"{value_text(interval)}; by chance {null['mean']:.3f}, up to {null['high']:.3f}"


def scaling_table(audit: Mapping[str, Any]) -> str:
    """Calibration of both reward models before and after their scores are divided by one temperature."""

    def cells(model: Mapping[str, Any]) -> list[str]:
        return [value_text(model["log_loss"]), value_text(model["brier"]), _calibration_error(model)]

    rows = []
    for label, model in _models(audit):
        scaling = model["temperature_scaling"]
        rows.append([label, "1", *cells(model)])
        if scaling["left_out"] is None:
            rows.append([f"{label}, scaled", value_text(scaling["temperature"], ".2f"), *cells(scaling)])
            changes = [value_text(scaling[f"{name}_change"], "+.3f") for name in ("log_loss", "brier")]
            rows.append([f"{label}, change by it", "", *changes, ""])
        else:
            rows.append([f"{label}, scaled", f"none: {escape(scaling['left_out'])}", "", "", ""])
    return table(["", "Temperature", "Log loss, nats", "Brier score", "Expected calibration error"], rows)


def annotators_sentence(audit: Mapping[str, Any]) -> str | None:
    """Each model's accuracy against how far annotators agree; None where that is unknown."""
    annotators = audit["annotators"]
    if annotators is None or annotators["decided"] is None:
        return None
    sentences = [
        f"{label}: its accuracy, {share_text(model['accuracy'])}, "
        + ("reaches how often" if model["reaches_annotators"] else "lies below how often")
        + f" one annotator agrees with another, {share_text(annotators['decided'])}."
        for label, model in _models(audit)
    ]
    return (
        f"{' '.join(sentences)} By that agreement no model is right in more than {share_text(annotators['ceiling'])} "
        f"of the pairs."
    )


def ensemble_table(audit: Mapping[str, Any]) -> str | None:
    """What the members of the ensemble say together, and whether their disagreement knows errors; None without one."""
    ensemble = audit["ensemble"]
    if ensemble is None:
        return None
    rows = [
        [f"Accuracy of the mean of {ensemble['num_members']} members", share_text(ensemble["accuracy"])],
        *([f"Accuracy of member {n}", share_text(one)] for n, one in enumerate(ensemble["members"], 1)),
        ["Pairs whose winner the members do not agree about", share_text(ensemble["disputed"])],
        ["Standard deviation over members, in those of all scores", value_text(ensemble["disagreement"])],
        *(
            [f"Accuracy, {which} disputed pairs ({_rows(group)})", share_text(group["accuracy"])]
            for which, group in zip(("least", "other", "most"), ensemble["by_disagreement"], strict=False)
        ),
        ["Accuracy, least disputed less most disputed", value_text(ensemble["least_less_most"], "+.1%")],
    ]
    return table(["", "Held-out pairs"], rows)


def learning_curve_table(audit: Mapping[str, Any]) -> str | None:
    """Accuracy by the number of training pairs, and what twice as many would bring; None without a curve."""
    curve = audit["learning_curve"]
    if curve is None:
        return None
    points = zip(curve["num_pairs"], curve["accuracy"], strict=True)
    rows = [[f"{pairs:,}", share_text(accuracy)] for pairs, accuracy in points]
    rows.append([f"{2 * curve['num_pairs'][-1]:,}, extrapolated", share_text(curve["doubled"])])
    return f"{curve['answer']}\n\n" + table(["Training pairs", "Accuracy"], rows)


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
            rows += [[label, "", "", *cells] for label, cells in _together(models, key)]
            notes = _little(models[0][key])
            tables[title] = table([title, "Pairs", "Prompts", *REWARD_MODELS.values()], rows) + notes
    for model, name in zip(models, REWARD_MODELS.values(), strict=True):
        rows = [[*_group(first), share_text(first["accuracy"])] for first in model["by_score_margin"]]
        tables[f"Distance of the two scores: {name}"] = table(["Distance", "Pairs", "Prompts", "Accuracy"], rows)
    return tables


def _groups(model: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    held_out = model["held_out_annotators"] if key == "by_annotator" else None
    return [*model[key], *([{**held_out, "annotator": "All that no stage learned from"}] if held_out else [])]


def _together(models: Sequence[Mapping[str, Any]], key: str) -> Iterator[tuple[str, list[str]]]:
    """The figures of all groups together, below them."""
    if key == "by_category" and models[0]["mean_over_categories"] is not None:
        yield "Mean, each category alike", [share_text(model["mean_over_categories"]) for model in models]
        yield "All pairs together", [share_text(model["accuracy"]) for model in models]
    if key == "by_annotated_margin" and models[0]["strong_less_weak"] is not None:
        yield "Strongest less weakest", [value_text(model["strong_less_weak"], "+.1%") for model in models]


def _little(groups: Sequence[Mapping[str, Any]]) -> str:
    names = [escape(group["category"], 80) for group in groups if group.get("says_little")]
    if not names:
        return ""
    return (
        f"\n\nToo few pairs to say much, since an interval is wider than 20 points: {', '.join(names)}. For a narrower "
        f"one a category needs a hundred prompts or so."
    )


def _models(audit: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(label, audit["models"][name]) for name, label in REWARD_MODELS.items()]


def _group(group: Mapping[str, Any]) -> list[str]:
    return [_label(group), f"{group['count']:,}", f"{group['num_prompts']:,}"]


def _rows(group: Mapping[str, Any]) -> str:
    return f"{group['count']:,} pairs of {group['num_prompts']:,} prompts"


def _label(group: Mapping[str, Any]) -> str:
    for field in ("source", "category", "annotator"):
        if field in group:
            return escape(group[field], 80)
    low, high = f"{group['from']:.3g}", f"{group['to']:.3g}"
    return low if low == high else f"{low} to {high}"

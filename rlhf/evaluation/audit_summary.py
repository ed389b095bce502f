"""What an audit comes to: the warnings of the card, and the metrics."""

from collections.abc import Mapping
from typing import Any

from rlhf.config.evaluation import RewardAuditConfig
from rlhf.evaluation.reward_verdict import unreachable
from rlhf.evaluation.statistics import Estimate
from rlhf.headline import FITNESS

MAX_LENGTH_CORRELATION = 0.5
_VOID_MARGIN = 5.0
"""A pair that a model has right by as much as this is still pulled apart with half of the loss's full slope."""


def unreachable_thresholds(config: RewardAuditConfig, ceiling: Estimate | None) -> list[str]:
    """A warning for each threshold that no model can reach, whatever its verdict.

    Args:
        config: thresholds.
        ceiling: the most that the annotators' agreement allows; None where it is unknown.
    """
    return [
        f"reward_audit.{name} is {getattr(config, name):g}, which no model can reach here: by how far annotators "
        f"agree, none is right in more than {ceiling.value:.3f} ({ceiling.low:.3f} to {ceiling.high:.3f}) of the "
        f"pairs; lower it."
        for name in unreachable(config, ceiling)
        if ceiling
    ]


def warnings_of(title: str, model: Mapping[str, Any], rule: Estimate) -> list[str]:
    """What a reader must know of a reward model before trusting it.

    Args:
        title: of the model.
        model: as `audit.json` has it.
        rule: how often the longer dialogue is the chosen one.
    """
    accuracy, over_rule = Estimate(**model["accuracy"]), model["accuracy_over_length_rule"]
    by_pairs = model["length_by_pairs"]
    warnings = []
    # Where the rule is not told from a coin, the accuracy's own bound has said all.
    if not rule.low <= 0.5 <= rule.high and over_rule["low"] <= 0:
        share = max(rule.value, 1 - rule.value)
        warnings.append(
            f"{title}: held-out accuracy ({accuracy.value:.3f}) is not shown to beat choosing the {over_rule['rule']} "
            f"dialogue ({share:.3f}): the difference is {over_rule['value']:+.3f} ({over_rule['low']:+.3f} to "
            f"{over_rule['high']:+.3f})."
        )
    length = by_pairs["correlation"]["pearson"]
    if length is not None and abs(length) > MAX_LENGTH_CORRELATION:
        warnings.append(
            f"{title}: score and response length correlate by {length:+.2f} within pairs; the score may stand for "
            f"length."
        )
    margins = model["margins"]
    if margins and margins["largest"] > _VOID_MARGIN:
        warnings.append(
            f"{title}: it was trained with margins of up to {margins['largest']:g}. Beyond {_VOID_MARGIN:g} the loss "
            f"hardly bends, so its probabilities and their calibration mean nothing; give smaller margins, such as by "
            f"reward_model.margin_by_rating."
        )
    elif margins and margins["mean"] > 0:
        warnings.append(
            f"{title}: it was trained with margins, {margins['mean']:.2f} on average, so its scores are further apart "
            f"by as much and its probabilities over-confident by design."
        )
    for side in ("shorter", "longer"):
        group = by_pairs[f"{side}_chosen"]
        if group and group["accuracy"]["high"] < 0.5:
            warnings.append(
                f"{title}: where raters chose the {side} response, accuracy is {group['accuracy']['value']:.3f} "
                f"({group['accuracy']['low']:.3f} to {group['accuracy']['high']:.3f}): worse than a coin."
            )
    return warnings


def audit_metrics(audit: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of an audit.

    Args:
        audit: as `audit.json` has it.
    """
    metrics = {
        "reward_audit/num_pairs": float(audit["num_pairs"]),
        "reward_audit/num_prompts": float(audit["num_prompts"]),
        "reward_audit/longer_wins_accuracy": audit["longer_wins"]["rate"]["value"],
        "reward_audit/model_agreement": audit["agreement"]["same_preference"]["value"],
        "reward_audit/num_warnings": float(len(audit["warnings"])),
        "reward_audit/fitness": FITNESS[audit["verdict"]],
    }
    for name, prefix in (("reward_model", "reward_audit/"), ("selection_reward_model", "reward_audit/selection_")):
        model = audit["models"][name]
        metrics |= {
            **_with_interval(f"{prefix}accuracy", model["accuracy"]),
            f"{prefix}expected_calibration_error": model["expected_calibration_error"],
            f"{prefix}expected_calibration_error_null": model["expected_calibration_error_null"]["high"],
            f"{prefix}brier": model["brier"]["value"],
            f"{prefix}log_loss": model["log_loss"]["value"],
        }
        if (scaling := model["temperature_scaling"])["left_out"] is None:
            metrics |= {
                f"{prefix}temperature": scaling["temperature"]["value"],
                f"{prefix}scaled_expected_calibration_error": scaling["expected_calibration_error"],
                f"{prefix}scaled_expected_calibration_error_null": scaling["expected_calibration_error_null"]["high"],
                f"{prefix}scaled_brier": scaling["brier"]["value"],
                f"{prefix}scaled_log_loss": scaling["log_loss"]["value"],
            }
        if model["mean_over_categories"] is not None:
            metrics |= _with_interval(f"{prefix}accuracy_mean_over_categories", model["mean_over_categories"])
        if model["strong_less_weak"] is not None:
            metrics[f"{prefix}accuracy_strong_less_weak"] = model["strong_less_weak"]["value"]
        correlations = {
            "score_length_correlation": model["length_correlation"],
            "pair_length_correlation": model["length_by_pairs"]["correlation"],
        }
        pearson = {key: coefficients["pearson"] for key, coefficients in correlations.items()}
        metrics |= {f"{prefix}{key}": value for key, value in pearson.items() if value is not None}
        if flips := [change["flips"]["value"] for change in model["robustness"] if change["flips"]]:
            metrics[f"{prefix}largest_flip_rate"] = max(flips)
        groups = {f"{side}_chosen": model["length_by_pairs"][f"{side}_chosen"] for side in ("shorter", "longer")}
        for key, group in {**groups, "held_out_annotators": model["held_out_annotators"]}.items():
            if group is not None:
                metrics[f"{prefix}accuracy_{key}"] = group["accuracy"]["value"]
    if (annotators := audit["annotators"]) is not None:
        metrics["reward_audit/annotator_agreement"] = annotators["all"]["value"]
        if annotators["ceiling"] is not None:
            metrics["reward_audit/annotator_agreement_decided"] = annotators["decided"]["value"]
            metrics["reward_audit/accuracy_ceiling"] = annotators["ceiling"]["value"]
    for key, figures in (
        ("ensemble", ("disagreement", "disputed", "least_less_most")),
        ("learning_curve", ("doubled", "gain")),
    ):
        if audit[key] is not None:
            metrics |= {f"reward_audit/{key}_{name}": audit[key][name]["value"] for name in figures}
    if audit["ensemble"] is not None:
        metrics |= _with_interval("reward_audit/ensemble_accuracy", audit["ensemble"]["accuracy"])
    return metrics


def _with_interval(name: str, estimate: Mapping[str, float]) -> dict[str, float]:
    return {name: estimate["value"], f"{name}_low": estimate["low"], f"{name}_high": estimate["high"]}

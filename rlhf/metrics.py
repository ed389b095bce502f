"""Every metric that a stage may log: its name, its unit and which way is better. MLflow gets no other."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from rlhf.errors import RLHFError
from rlhf.stages import STAGES

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Metric:
    """The meaning of a number.

    Attributes:
        unit: unit of the number; empty for a share or a plain ratio.
        better: which way is better, `neither` where that depends.
        summary: one of the few whose last value is copied to the parent run, by which people compare pipelines.
        curve: one of the few that are copied there with all their steps, so that curves lie over one another.
        interval: the ends of its 95% interval are logged as well, with `_low` and `_high` behind its name.
    """

    unit: str
    better: Better = "neither"
    summary: bool = False
    curve: bool = False
    interval: bool = False


_DECLARED: dict[str, Metric] = {
    "data/num_demonstrations_train": Metric("rows"),
    "data/num_preferences_train": Metric("rows", summary=True),
    "data/num_preferences_selection": Metric("rows"),
    "data/num_preferences_test": Metric("rows"),
    "data/num_prompts_train": Metric("rows", summary=True),
    "data/num_prompts_validation": Metric("rows"),
    "data/num_prompts_test": Metric("rows"),
    "data/num_prompts_gate": Metric("rows"),
    "data/num_duplicates": Metric("rows", "lower"),
    "data/num_leaks": Metric("rows", "lower"),
    "data/num_label_conflicts": Metric("pairs", "lower"),
    "data/num_cut_dialogues": Metric("rows", "lower"),
    "data/num_too_long": Metric("rows", "lower"),
    "data/num_left_out": Metric("rows", "lower"),
    "data/num_changed": Metric("rows", "lower"),
    "sft/loss": Metric("nats/token", "lower", curve=True),
    "sft/learning_rate": Metric("1"),
    "sft/validation_loss": Metric("nats/token", "lower", summary=True),
    "sft/validation_token_accuracy": Metric("", "higher", summary=True),
    "revision/num_answers": Metric("answers"),
    "revision/num_demonstrations": Metric("rows"),
    "feedback/num_comparisons": Metric("comparisons"),
    "feedback/num_answered": Metric("answers"),
    "feedback/num_preferences": Metric("rows"),
    "feedback/num_ties": Metric("rows"),
    "feedback/agreement": Metric("", "higher", interval=True),
    "feedback/judge_agreement": Metric("", "higher", interval=True),
    "feedback/gold": Metric("gold", "higher", interval=True),
    "feedback/reward_model_accuracy": Metric("", "higher", interval=True),
    "feedback/selection_reward_model_accuracy": Metric("", "higher", interval=True),
    "reward_model/loss": Metric("nats/pair", "lower", curve=True),
    "reward_model/accuracy": Metric("", "higher"),
    "reward_model/validation_accuracy": Metric("", "higher", summary=True),
    "reward_model/score_offset": Metric("score"),
    "reward_model/train_less_validation_score": Metric("score"),
    "selection_reward_model/loss": Metric("nats/pair", "lower"),
    "selection_reward_model/accuracy": Metric("", "higher"),
    "selection_reward_model/validation_accuracy": Metric("", "higher"),
    "selection_reward_model/score_offset": Metric("score"),
    "selection_reward_model/train_less_validation_score": Metric("score"),
    "reward_audit/accuracy": Metric("", "higher", summary=True, interval=True),
    "reward_audit/expected_calibration_error": Metric("", "lower", summary=True),
    "reward_audit/longer_wins_accuracy": Metric("", "neither", summary=True),
    "reward_audit/expected_calibration_error_null": Metric("", "neither"),
    "reward_audit/brier": Metric("", "lower"),
    "reward_audit/log_loss": Metric("nats/pair", "lower"),
    "reward_audit/score_length_correlation": Metric("", "neither"),
    "reward_audit/pair_length_correlation": Metric("", "neither"),
    "reward_audit/accuracy_shorter_chosen": Metric("", "higher"),
    "reward_audit/accuracy_longer_chosen": Metric("", "higher"),
    "reward_audit/accuracy_held_out_annotators": Metric("", "higher"),
    "reward_audit/selection_accuracy_held_out_annotators": Metric("", "higher"),
    "reward_audit/annotator_agreement": Metric("", "higher"),
    "reward_audit/selection_accuracy": Metric("", "higher", interval=True),
    "reward_audit/selection_expected_calibration_error": Metric("", "lower"),
    "reward_audit/selection_expected_calibration_error_null": Metric("", "neither"),
    "reward_audit/selection_brier": Metric("", "lower"),
    "reward_audit/selection_log_loss": Metric("nats/pair", "lower"),
    "reward_audit/selection_score_length_correlation": Metric("", "neither"),
    "reward_audit/selection_pair_length_correlation": Metric("", "neither"),
    "reward_audit/selection_accuracy_shorter_chosen": Metric("", "higher"),
    "reward_audit/selection_accuracy_longer_chosen": Metric("", "higher"),
    "reward_audit/model_agreement": Metric("", "higher"),
    "reward_audit/num_pairs": Metric("pairs"),
    "reward_audit/num_prompts": Metric("prompts"),
    "reward_audit/num_warnings": Metric("", "lower", summary=True),
    "reward_audit/fitness": Metric("", "higher", summary=True),
    "reward_audit/largest_flip_rate": Metric("", "lower"),
    "reward_audit/selection_largest_flip_rate": Metric("", "lower"),
    "policy/score_mean": Metric("score", "higher", curve=True),
    "policy/score_std": Metric("score"),
    "policy/kl_mean": Metric("nats/response", "lower", curve=True),
    "policy/kl_k3_mean": Metric("nats/response", "lower"),
    "policy/kl_coef": Metric("score/nat"),
    "policy/reward_mean": Metric("score/response", "higher"),
    "policy/response_tokens_mean": Metric("tokens", curve=True),
    "policy/eos_rate": Metric("", "higher"),
    "policy/policy_loss": Metric("1"),
    "policy/value_loss": Metric("score^2", "lower"),
    "policy/entropy": Metric("nats/token", curve=True),
    "policy/approx_kl": Metric("nats/token"),
    "policy/clip_fraction": Metric(""),
    "policy/value_clip_fraction": Metric("", "lower"),
    "policy/explained_variance": Metric("", "higher", curve=True),
    "policy/unsafe_share": Metric("", "lower"),
    "policy/constant_groups": Metric("", "lower"),
    "policy/ratio_error": Metric("1", "lower"),
    "policy/policy_grad_norm": Metric("1"),
    "policy/value_grad_norm": Metric("1"),
    "policy/learning_rate": Metric("1"),
    "policy/validation_score": Metric("score", "higher"),
    "policy/validation_held_out_score": Metric("score", "higher"),
    "policy/validation_selection_score": Metric("score", "higher"),
    "policy/validation_kl": Metric("nats/response", "lower"),
    "policy/validation_objective": Metric("score", "higher", curve=True),
    "policy/validation_response_tokens": Metric("tokens"),
    "policy/validation_eos_rate": Metric("", "higher"),
    "policy/validation_implicit_accuracy": Metric("", "higher", summary=True),
    "policy/validation_chosen_log_ratio": Metric("nats/response", "higher", curve=True),
    "policy/validation_rejected_log_ratio": Metric("nats/response", "lower", curve=True),
    "policy/validation_chosen_token_log_ratio": Metric("nats/token", "higher"),
    "policy/best_of_n_score": Metric("score", "higher"),
    "policy/best_of_n_median": Metric("score", "higher"),
    "policy/best_of_n_kl_bound": Metric("nats/response"),
    "policy/ptx_loss": Metric("nats/token", "lower"),
    "policy/corpus_loss_before": Metric("nats/token", "lower"),
    "policy/corpus_loss": Metric("nats/token", "lower"),
    "policy/num_alarms": Metric("", "lower", summary=True),
    "policy/chosen_update": Metric("update", summary=True),
    "policy/chosen_objective": Metric("score", "higher", summary=True),
    "policy/episodes_per_second": Metric("episodes/s", "higher"),
    "policy/checkpoint_seconds": Metric("s", "lower"),
    "evaluation/win_rate": Metric("", "higher", summary=True, interval=True),
    "evaluation/length_controlled_win_rate": Metric("", "higher", interval=True),
    "evaluation/policy_score": Metric("score", "higher", summary=True),
    "evaluation/baseline_score": Metric("score", "higher"),
    "evaluation/policy_selection_score": Metric("score", "higher"),
    "evaluation/baseline_selection_score": Metric("score", "higher"),
    "evaluation/policy_gold": Metric("gold", "higher", summary=True),
    "evaluation/baseline_gold": Metric("gold", "higher", summary=True),
    "evaluation/gold_gain": Metric("gold", "higher", summary=True, interval=True),
    "evaluation/gold_win_rate": Metric("", "higher", interval=True),
    "evaluation/score_gain": Metric("score", "higher", interval=True),
    "evaluation/score_win_rate": Metric("", "neither", summary=True, interval=True),
    "evaluation/selection_score_gain": Metric("score", "higher", interval=True),
    "evaluation/selection_score_win_rate": Metric("", "higher", summary=True, interval=True),
    "evaluation/kl": Metric("nats/response", "lower", summary=True, interval=True),
    "evaluation/policy_response_tokens": Metric("tokens"),
    "evaluation/baseline_response_tokens": Metric("tokens"),
    "evaluation/response_tokens_change": Metric("tokens", interval=True),
    "evaluation/non_length_reward_gain": Metric("", "higher", interval=True),
    "evaluation/policy_eos_rate": Metric("", "higher"),
    "evaluation/baseline_eos_rate": Metric("", "higher"),
    "evaluation/policy_refusal_rate": Metric("", "neither"),
    "evaluation/baseline_refusal_rate": Metric("", "neither"),
    "evaluation/policy_distinct_1": Metric("", "higher"),
    "evaluation/policy_distinct_2": Metric("", "higher"),
    "evaluation/baseline_distinct_1": Metric("", "higher"),
    "evaluation/baseline_distinct_2": Metric("", "higher"),
    "evaluation/policy_hedging_easy": Metric("", "lower", summary=True),
    "evaluation/policy_hedging_hard": Metric("", "higher", summary=True),
    "evaluation/policy_accuracy_easy": Metric("", "higher", summary=True),
    "evaluation/policy_accuracy_hard": Metric("", "higher"),
    "evaluation/baseline_hedging_easy": Metric("", "lower"),
    "evaluation/baseline_hedging_hard": Metric("", "higher"),
    "evaluation/baseline_accuracy_easy": Metric("", "higher"),
    "evaluation/baseline_accuracy_hard": Metric("", "higher"),
    "evaluation/policy_score_gold_correlation": Metric("", "higher"),
    "evaluation/baseline_score_gold_correlation": Metric("", "higher"),
    "evaluation/curve_score": Metric("score", "higher"),
    "evaluation/curve_selection_score": Metric("score", "higher"),
    "evaluation/curve_gold": Metric("gold", "higher", curve=True),
    "evaluation/curve_distinct_2": Metric("", "higher"),
    "evaluation/curve_kl": Metric("nats/response", "lower", curve=True),
    "evaluation/num_responses": Metric("responses"),
    "evaluation/num_prompts": Metric("prompts"),
    "evaluation/num_warnings": Metric("", "lower", summary=True),
    "rounds/answers_gold": Metric("gold", "higher"),
    "rounds/earlier_reward_model_accuracy": Metric("", "higher"),
    "rounds/reward_model_accuracy": Metric("", "higher"),
    "rounds/kl": Metric("nats/response"),
    "comparison/win_rate": Metric("", "higher", summary=True, interval=True),
    "comparison/gain": Metric("gold or score", "higher", summary=True, interval=True),
    "comparison/kl": Metric("nats/response", "lower", interval=True),
    "comparison/length_growth": Metric("", "lower", summary=True),
    "comparison/num_prompts": Metric("prompts"),
    "comparison/candidate_gold": Metric("gold", "higher"),
    "comparison/champion_gold": Metric("gold", "higher"),
    "comparison/candidate_selection_score": Metric("score", "higher"),
    "comparison/champion_selection_score": Metric("score", "higher"),
    "comparison/candidate_champion_selection_score": Metric("score", "higher"),
    "comparison/champion_champion_selection_score": Metric("score", "higher"),
    "comparison/candidate_response_tokens": Metric("tokens"),
    "comparison/champion_response_tokens": Metric("tokens"),
    "comparison/candidate_eos_rate": Metric("", "higher"),
    "comparison/champion_eos_rate": Metric("", "higher"),
    "comparison/candidate_refusal_rate": Metric("", "neither"),
    "comparison/champion_refusal_rate": Metric("", "neither"),
}

_ENDS = ("", "_low", "_high")
METRICS: dict[str, Metric] = {
    f"{name}{end}": replace(metric, summary=metric.summary and not end)
    for name, metric in _DECLARED.items()
    for end in (_ENDS if metric.interval else ("",))
}
# What the gate of retraining looks at.
METRICS["comparison/win_rate_low"] = METRICS["comparison/win_rate"]
COSTS = {"seconds": "s", "trained_seconds": "s", "peak_memory_mb": "MB", "peak_device_memory_mb": "MB"}
"""Costs that each stage logs, and their units."""
METRICS |= {f"{stage}/{name}": Metric(unit, "lower", summary=True) for name, unit in COSTS.items() for stage in STAGES}
COST_UNITS = ("s", "episodes/s", "MB")
"""Units of what a result costs, which says nothing of the result."""

HEADLINES = tuple(
    name
    for name, metric in METRICS.items()
    if name.startswith(("reward_audit/", "policy/", "evaluation/"))
    and not name.endswith(("_low", "_high"))
    and (metric.summary or metric.interval)
    and metric.unit not in (*COST_UNITS, "rows")
)
"""The metrics that a recipe is judged by: what pipelines are compared by, and all that has an interval."""

GROUP = "group/"
"""Before a metric's name: over the seeds of a group, its mean, and with `_low`, `_high` and `_std` after the name the
95% t-interval of that mean and the standard deviation between seeds."""
METRICS |= {f"{GROUP}{name}{end}": replace(METRICS[name], summary=False) for name in HEADLINES for end in _ENDS}
METRICS |= {f"{GROUP}{name}_std": Metric(METRICS[name].unit, "lower") for name in HEADLINES}
METRICS |= {f"{GROUP}num_seeds": Metric("seeds"), f"{GROUP}num_failed": Metric("seeds", "lower")}


FAMILIES: dict[str, Metric] = {
    "evaluation/sets/": Metric("", interval=True),  # SET/MEASURE, of the evaluation sets of the data
    "policy/source_score_mean/": Metric("score", "higher"),
    "sft_": Metric(""),  # SFT policies that members start from, under the names of the first one
    "reward_model_": Metric(""),  # members of an ensemble, under the names of the first one
}
"""Metrics that there are several of: what follows the prefix is a name out of the configuration."""


class UndeclaredMetricError(RLHFError):
    """A stage logged a metric that `METRICS` does not declare."""


def describe(name: str) -> Metric:
    """The meaning of a metric, whether it stands for itself or belongs to a family."""
    return METRICS.get(name) or next(metric for prefix, metric in FAMILIES.items() if name.startswith(prefix))


def check_declared(names: Iterable[str]) -> None:
    """Refuse metric names that nobody has given a meaning.

    Args:
        names: an iterable of metric names, such as a mapping of metrics.

    Raises:
        UndeclaredMetricError: a name is not in `METRICS`.
    """
    unknown = sorted(name for name in {*names} - set(METRICS) if not name.startswith(tuple(FAMILIES)))
    if unknown:
        raise UndeclaredMetricError(
            f"metrics without a declaration: {', '.join(unknown)}; declare them in rlhf/metrics.py"
        )

"""The metadata at the top of a model card, which the Hugging Face hub reads: what it is, and what was measured."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlhf.config.pipeline import PipelineConfig
from rlhf.model_card.tables import JUDGES, REWARD_MODELS
from rlhf.modeling.hub import is_hub_id
from rlhf.references import DataSource

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

_POLICY_FIGURES = {
    "score": "Mean score by the reward model",
    "selection_score": "Mean score by the selection reward model",
    "gold": "Mean gold reward",
    "hedging_easy": "Hedged answers on easy questions",
    "hedging_hard": "Hedged answers on hard questions",
    "accuracy_easy": "Right answers on easy questions",
    "eos_rate": "Responses that end by themselves",
}


def card_metadata(
    config: PipelineConfig, source: DataSource, audit: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> "ModelCardData":
    """Metadata with a `model-index` of the measured figures, unrounded, each with its 95% interval as arguments.

    Args:
        config: the run's whole configuration.
        source: the data set that was read.
        audit: `audit.json` of the reward-model audit.
        evaluation: `evaluation.json` of the policy evaluation.
    """
    from huggingface_hub import ModelCardData

    from_scratch = source.embedded is not None and config.model.base is None
    figures = [*_policy_figures(evaluation), *_reward_model_figures(audit)]
    return ModelCardData(
        model_name=config.name,
        eval_results=[_result(config, source, *figure) for figure in figures],
        base_model=config.model.base if is_hub_id(config.model.base) else None,
        language="en" if source.embedded else None,
        license="apache-2.0" if from_scratch else "unknown",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["rlhf", config.method.replace("_", "-"), "reward-model", "conversational"],
    )


_Figure = tuple[tuple[str, str], str, str, Mapping[str, float]]
_GENERATION = ("text-generation", "Text generation")
_REWARD_MODELLING = ("text-classification", "Reward modelling")


def _policy_figures(evaluation: Mapping[str, Any]) -> list[_Figure]:
    judge, policy, gains = evaluation["judge"], evaluation["models"]["policy"], evaluation["gains"]
    win_rate = f"Win rate against the SFT baseline, judged by {JUDGES[judge]}"
    figures: list[_Figure] = [
        (_GENERATION, "win_rate", win_rate, evaluation["win_rate"]["rate"]),
        (_GENERATION, "kl", "KL to the SFT baseline in nats per response", evaluation["kl"]),
    ]
    figures += [(_GENERATION, name, label, policy[name]) for name, label in _POLICY_FIGURES.items() if name in policy]
    if "gold" in gains:
        figures.append((_GENERATION, "gold_gain", "Gold reward gained over the SFT baseline", gains["gold"]))
    return figures


def _reward_model_figures(audit: Mapping[str, Any]) -> list[_Figure]:
    return [
        (
            _REWARD_MODELLING,
            f"{name}_accuracy",
            f"{label}: accuracy on held-out pairs",
            audit["models"][name]["accuracy"],
        )
        for name, label in REWARD_MODELS.items()
    ]


def _result(
    config: PipelineConfig,
    source: DataSource,
    task: tuple[str, str],
    name: str,
    label: str,
    estimate: Mapping[str, float],
) -> "EvalResult":
    from huggingface_hub import EvalResult

    data_set = source.embedded or f"{config.name}_data"
    return EvalResult(
        task_type=task[0],
        task_name=task[1],
        dataset_type=data_set,
        dataset_name=data_set.replace("_", " "),
        dataset_split="test",
        dataset_revision=source.md5,
        metric_type=name,
        metric_name=label,
        metric_value=estimate["value"],
        metric_args={"confidence": 0.95, "low": estimate["low"], "high": estimate["high"]},
    )

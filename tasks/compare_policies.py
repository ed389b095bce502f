"""The task that compares a candidate with the champion."""

from rlhf.bases import source_at_commit, source_with_folder
from rlhf.config import EvaluationConfig, JudgesConfig, Setup
from rlhf.references import (
    ComparisonRef,
    DatasetRef,
    EvaluationRef,
    ModelCardRef,
    ModelRef,
    PolicyRef,
    RewardModelsRef,
)
from tasks.stage import Attempt, stage


def compare_policies(
    config: EvaluationConfig,
    judges: JudgesConfig,
    setup: Setup,
    max_response_tokens: int,
    data: DatasetRef,
    candidate: PolicyRef,
    champion: ModelCardRef | ModelRef,
    evaluation: EvaluationRef,
    reward_models: RewardModelsRef,
) -> ComparisonRef:
    """Compare the candidate with the champion, or with its own SFT policy where there is no champion yet."""
    judges = judges.model_copy(update={"safety": tuple(map(source_at_commit, judges.safety))})
    return _compare(config, judges, setup, max_response_tokens, data, candidate, champion, evaluation, reward_models)


@stage("comparison", version="1", module="rlhf.evaluation.comparison")
def _compare(
    attempt: Attempt,
    config: EvaluationConfig,
    judges: JudgesConfig,
    setup: Setup,
    max_response_tokens: int,
    data: DatasetRef,
    candidate: PolicyRef,
    champion: ModelCardRef | ModelRef,
    evaluation: EvaluationRef,
    reward_models: RewardModelsRef,
) -> ComparisonRef:
    """Judge the responses of both."""
    from rlhf.evaluation import comparison

    folder = attempt.path(champion)
    comparison.compare_policies(
        config,
        judges.model_copy(update={"safety": tuple(map(source_with_folder, judges.safety))}),
        attempt.setup(setup),
        max_response_tokens,
        attempt.path(data),
        attempt.path(candidate) / "policy",
        folder / "policy" if isinstance(champion, ModelRef) else folder,
        attempt.path(evaluation),
        attempt.path(reward_models),
        attempt.workspace,
    )
    return attempt.save(ComparisonRef)

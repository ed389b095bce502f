"""The task that compares a candidate with the champion."""

from rlhf.bases import source_with_folder
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


@stage("comparison", version="1", module="rlhf.evaluation.comparison")
def compare_policies(
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
    """Compare the candidate with the champion, or with its own SFT policy where there is no champion yet."""
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

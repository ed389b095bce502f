"""The task that compares a candidate with the champion."""

from rlhf.config.evaluation import EvaluationConfig
from rlhf.config.model import Setup
from rlhf.config.retrain import JudgesConfig
from rlhf.modeling.hub import source_with_folder
from rlhf.references import ComparisonRef, DatasetRef, JudgeFiles, ModelCardRef, ModelRef, PolicyRef, RewardModelsRef
from tasks.judge_files import judge_files
from tasks.stage import Attempt, stage


def compare_policies(
    config: EvaluationConfig,
    judges: JudgesConfig,
    setup: Setup,
    max_response_tokens: int,
    data: DatasetRef,
    candidate: PolicyRef,
    champion: ModelCardRef | ModelRef,
    sft: ModelRef,
    reward_models: RewardModelsRef,
    champion_reward_models: RewardModelsRef | None,
) -> ComparisonRef:
    """Compare the candidate with the champion, or with its own SFT policy where there is no champion yet.

    Args:
        config: prompts, sampling, LLM judge.
        judges: of the candidate's safety.
        setup: seed and models.
        max_response_tokens: longest response.
        data: with the gate's prompts.
        candidate: the policy that was trained.
        champion: what it is compared with.
        sft: the candidate's SFT policy, to which the KL is measured.
        reward_models: the candidate's.
        champion_reward_models: the champion's, which judge too; None where they do not.
    """
    files = judge_files(config)
    models = data, candidate, champion, sft, reward_models, champion_reward_models
    return _compare(config, judges, setup, max_response_tokens, files, *models)


@stage("comparison", version="1", module="rlhf.evaluation.comparison")
def _compare(
    attempt: Attempt,
    config: EvaluationConfig,
    judges: JudgesConfig,
    setup: Setup,
    max_response_tokens: int,
    files: JudgeFiles | None,
    data: DatasetRef,
    candidate: PolicyRef,
    champion: ModelCardRef | ModelRef,
    sft: ModelRef,
    reward_models: RewardModelsRef,
    champion_reward_models: RewardModelsRef | None,
) -> ComparisonRef:
    """Compare the candidate with the champion, or with its own SFT policy where there is no champion yet."""
    from rlhf.evaluation import comparison

    folder = attempt.path(champion)
    comparison.compare_policies(
        config,
        judges.model_copy(update={"safety": tuple(map(source_with_folder, judges.safety))}),
        attempt.setup(setup),
        max_response_tokens,
        candidate.sha256,
        attempt.path(data),
        attempt.path(candidate) / "policy",
        folder / "policy" if isinstance(champion, ModelRef) else folder,
        attempt.path(sft) / "policy",
        attempt.path(reward_models),
        attempt.path(champion_reward_models) if champion_reward_models else None,
        attempt.workspace,
    )
    return attempt.save(ComparisonRef)

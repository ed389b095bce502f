"""The task of policy evaluation."""

from rlhf.config.evaluation import EvaluationConfig
from rlhf.config.model import Setup
from rlhf.references import DatasetRef, EvaluationRef, JudgeFiles, ModelRef, PolicyRef, RewardModelsRef
from tasks.judge_files import judge_files
from tasks.stage import Attempt, stage


def evaluate_policy(
    config: EvaluationConfig,
    setup: Setup,
    max_response_tokens: int,
    data: DatasetRef,
    policy: PolicyRef,
    baseline: ModelRef,
    reward_models: RewardModelsRef,
) -> EvaluationRef:
    """Compare the policy with the SFT baseline on test prompts.

    Args:
        config: prompts, sampling, judge.
        setup: seed and models.
        max_response_tokens: longest response.
        data: with the test prompts.
        policy: the one that was trained.
        baseline: the SFT policy.
        reward_models: judges.
    """
    files = judge_files(config)
    return _evaluate(config, setup, max_response_tokens, files, data, policy, baseline, reward_models)


@stage("evaluation", version="1", module="rlhf.evaluation.policy")
def _evaluate(
    attempt: Attempt,
    config: EvaluationConfig,
    setup: Setup,
    max_response_tokens: int,
    files: JudgeFiles | None,
    data: DatasetRef,
    policy: PolicyRef,
    baseline: ModelRef,
    reward_models: RewardModelsRef,
) -> EvaluationRef:
    """Compare the policy with the SFT baseline on test prompts."""
    from rlhf.evaluation import policy as evaluation

    evaluation.evaluate_policy(
        config,
        attempt.setup(setup),
        max_response_tokens,
        attempt.path(data),
        attempt.path(policy),
        attempt.path(baseline),
        attempt.path(reward_models),
        attempt.workspace,
    )
    return attempt.save(EvaluationRef)

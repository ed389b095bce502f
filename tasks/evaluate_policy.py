"""The task of policy evaluation."""

from rlhf.config.evaluation import EvaluationConfig
from rlhf.config.model import Setup
from rlhf.references import DatasetRef, EvaluationRef, ModelRef, PolicyRef, RewardModelsRef
from tasks.stage import Attempt, stage


@stage("evaluation", version="1", module="rlhf.evaluation.policy")
def evaluate_policy(
    attempt: Attempt,
    config: EvaluationConfig,
    setup: Setup,
    max_response_tokens: int,
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

"""Policy evaluation."""

from rlhf.config import EvaluationConfig, Setup
from rlhf.references import DatasetRef, EvaluationRef, ModelRef, PolicyRef, RewardModelsRef
from tasks.stage import StageRun, stage


@stage("evaluation", module="rlhf.evaluation.policy", makes=EvaluationRef)
def evaluate_policy(
    run: StageRun,
    config: EvaluationConfig,
    setup: Setup,
    max_response_tokens: int,
    data: DatasetRef,
    policy: PolicyRef,
    baseline: ModelRef,
    reward_models: RewardModelsRef,
) -> None:
    """Compare policy and SFT baseline on test prompts."""
    from rlhf.evaluation import policy as evaluation

    folders = (run.local(reference) for reference in (data, policy, baseline, reward_models))
    evaluation.evaluate_policy(config, setup, max_response_tokens, *folders, run.workspace)

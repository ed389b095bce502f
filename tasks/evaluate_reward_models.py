"""The task of reward-model evaluation."""

from rlhf.config.evaluation import RewardAuditConfig
from rlhf.config.model import Setup
from rlhf.references import AuditRef, DatasetRef, RewardModelsRef
from tasks.stage import Attempt, stage


@stage("reward_audit", version="1", module="rlhf.evaluation.reward_audit")
def evaluate_reward_models(
    attempt: Attempt, config: RewardAuditConfig, setup: Setup, data: DatasetRef, reward_models: RewardModelsRef
) -> AuditRef:
    """Measure both reward models on held-out pairs."""
    from rlhf.evaluation.reward_audit import audit_reward_models

    audit_reward_models(
        config, attempt.setup(setup), attempt.path(data), attempt.path(reward_models), attempt.workspace
    )
    return attempt.save(AuditRef)

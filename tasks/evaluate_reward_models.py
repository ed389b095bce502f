"""Reward-model evaluation."""

from rlhf.config import RewardAuditConfig, Setup
from rlhf.references import AuditRef, DatasetRef, RewardModelsRef
from tasks.stage import StageRun, stage


@stage("reward_audit", module="rlhf.evaluation.reward_audit", makes=AuditRef)
def evaluate_reward_models(
    run: StageRun, config: RewardAuditConfig, setup: Setup, data: DatasetRef, reward_models: RewardModelsRef
) -> None:
    """Measure the reward models on held-out pairs."""
    from rlhf.evaluation.reward_audit import audit_reward_models

    audit_reward_models(config, setup, run.local(data), run.local(reward_models), run.workspace)

"""The task of PPO."""

from rlhf.config import PPOConfig, Setup
from rlhf.references import DatasetRef, ModelRef, PolicyRef, RewardModelsRef
from tasks.stage import Attempt, stage


@stage("ppo", version="1", module="rlhf.ppo.trainer")
def train_ppo(
    attempt: Attempt,
    config: PPOConfig,
    setup: Setup,
    data: DatasetRef,
    start: ModelRef,
    reward_models: RewardModelsRef,
) -> PolicyRef:
    """Raise the reward model's score by PPO, and choose a checkpoint on held-out evidence."""
    from rlhf.ppo import trainer

    trainer.train_ppo(
        config,
        attempt.setup(setup),
        attempt.path(data),
        attempt.path(start),
        attempt.path(reward_models),
        attempt.workspace,
    )
    return attempt.save(PolicyRef)

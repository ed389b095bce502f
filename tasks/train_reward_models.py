"""The task of reward-model training."""

from rlhf.config.model import Setup
from rlhf.config.supervised import RewardModelConfig
from rlhf.references import DatasetRef, ModelRef, RewardModelsRef
from tasks.stage import Attempt, stage


@stage("reward_model", version="1", module="rlhf.supervised.reward_model")
def train_reward_models(
    attempt: Attempt, config: RewardModelConfig, setup: Setup, data: DatasetRef, start: ModelRef
) -> RewardModelsRef:
    """Train the reward model that PPO climbs, and the one that chooses checkpoints."""
    from rlhf.supervised import reward_model

    reward_model.train_reward_models(
        config, attempt.setup(setup), attempt.path(data), attempt.path(start), attempt.workspace
    )
    return attempt.save(RewardModelsRef)

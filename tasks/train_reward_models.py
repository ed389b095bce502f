"""Reward-model training."""

from rlhf.config import RewardModelConfig, Setup
from rlhf.references import DatasetRef, ModelRef, RewardModelsRef
from tasks.stage import StageRun, stage


@stage("reward_model", module="rlhf.reward_model", makes=RewardModelsRef)
def train_reward_models(
    run: StageRun, config: RewardModelConfig, setup: Setup, data: DatasetRef, start: ModelRef
) -> None:
    """Train the reward model that PPO climbs, and the one that chooses checkpoints."""
    from rlhf import reward_model

    reward_model.train_reward_models(config, setup, run.local(data), run.local(start), run.workspace)

"""PPO."""

from rlhf.config import PPOConfig, Setup
from rlhf.references import DatasetRef, ModelRef, PolicyRef, RewardModelsRef
from tasks.stage import StageRun, stage


@stage("ppo", module="rlhf.ppo.trainer", makes=PolicyRef)
def train_ppo(
    run: StageRun,
    config: PPOConfig,
    setup: Setup,
    data: DatasetRef,
    start: ModelRef,
    reward_models: RewardModelsRef,
) -> None:
    """Train the policy, and choose its checkpoint on held-out evidence."""
    from rlhf.ppo import trainer

    trainer.train_ppo(config, setup, run.local(data), run.local(start), run.local(reward_models), run.workspace)

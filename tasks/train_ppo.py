"""The task of PPO."""

import json

from rlhf import tracking
from rlhf.config import PPOConfig, Setup
from rlhf.errors import StartError
from rlhf.references import DatasetRef, ModelRef, PolicyRef, RewardModelsRef
from tasks.pipeline import current
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

    try:
        trainer.train_ppo(
            attempt.ppo(config),
            attempt.setup(setup),
            attempt.path(data),
            attempt.path(start),
            attempt.path(reward_models),
            attempt.workspace,
        )
    except StartError as error:
        tracking.set_alarms(attempt.run_id, [error.alarm])
        tracking.set_alarms(current().run_id, [error.alarm])
        raise
    summary = json.loads((attempt.workspace.output / "summary.json").read_text())
    tracking.set_alarms(attempt.run_id, [alarm["name"] for alarm in summary["alarms"]])
    return attempt.save(PolicyRef)

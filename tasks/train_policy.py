"""The task of PPO."""

import json

from rlhf.config.model import Setup
from rlhf.config.rl import RLConfig
from rlhf.errors import StartError
from rlhf.references import DatasetRef, ModelRef, PolicyRef, RewardModelsRef
from rlhf.tracking.runs import set_alarms
from tasks.pipeline_run import current
from tasks.stage import Attempt, stage


@stage("policy", version="1", module="rlhf.rl.stage")
def train_policy(
    attempt: Attempt,
    config: RLConfig,
    setup: Setup,
    data: DatasetRef,
    start: ModelRef,
    reward_models: RewardModelsRef,
) -> PolicyRef:
    """Raise the reward model's score by PPO, and choose a checkpoint on held-out evidence."""
    from rlhf.rl import stage

    try:
        stage.train_policy(
            attempt.policy(config),
            attempt.setup(setup),
            attempt.path(data),
            attempt.path(start),
            attempt.path(reward_models),
            attempt.workspace,
        )
    except StartError as error:
        set_alarms(attempt.run_id, [error.alarm])
        set_alarms(current().run_id, [error.alarm])
        raise
    summary = json.loads((attempt.workspace.output / "summary.json").read_text())
    set_alarms(attempt.run_id, [alarm["name"] for alarm in summary["alarms"]])
    return attempt.save(PolicyRef)

"""The task that trains the policy, by the recipe's method."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from rlhf.config.model import Setup
from rlhf.config.policy import PolicyConfig
from rlhf.config.rl import ROLLOUT_METHODS
from rlhf.errors import StartError
from rlhf.references import DatasetRef, ModelRef, PolicyRef, RewardModelsRef
from rlhf.tracking.runs import set_alarms
from tasks.pipeline_run import current
from tasks.stage import Attempt, stage

_MODULES = dict.fromkeys(ROLLOUT_METHODS, "rlhf.rl.stage")


def _module(arguments: Mapping[str, Any]) -> str:
    """The module that does the work: what changes in one method makes no other train again."""
    return _MODULES[arguments["method"]]


@stage("policy", version="1", module=_module)
def train_policy(
    attempt: Attempt,
    method: str,
    config: PolicyConfig,
    setup: Setup,
    data: DatasetRef,
    start: ModelRef,
    reward_models: RewardModelsRef,
) -> PolicyRef:
    """Raise the reward model's score by the recipe's method, and choose a checkpoint on held-out evidence."""
    from rlhf.rl.stage import train_from_rollouts

    train: Callable[..., None] = {method: train_from_rollouts for method in ROLLOUT_METHODS}[method]
    try:
        train(
            method,
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

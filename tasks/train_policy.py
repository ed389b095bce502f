"""The task that trains the policy, by the recipe's method."""

import json
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

from rlhf.config.model import Setup
from rlhf.config.pipeline import METHOD_SECTIONS
from rlhf.config.policy import PolicyConfig
from rlhf.errors import StartError
from rlhf.files.checkpoint_mirror import address_of
from rlhf.references import DatasetRef, ModelRef, PolicyRef, RewardModelsRef
from rlhf.tracking.runs import set_alarms
from tasks.pipeline_run import current
from tasks.stage import Attempt, stage

_FUNCTIONS = {"rl": "train_from_rollouts", "preference": "train_on_preferences", "best_of_n": "train_on_best_of_n"}


def _module(arguments: Mapping[str, Any]) -> str:
    """The module that does the work: what changes in one kind of methods makes no other train again."""
    return f"rlhf.{METHOD_SECTIONS[arguments['method']]}.stage"


@stage("policy", version="1", module=_module)
def train_policy(
    attempt: Attempt,
    method: str,
    config: PolicyConfig,
    setup: Setup,
    data: DatasetRef,
    start: ModelRef | PolicyRef,
    reward_models: RewardModelsRef,
    earlier: tuple[PolicyRef, ...] = (),
) -> PolicyRef:
    """Raise the reward model's score by a method, and choose a checkpoint on held-out evidence.

    `earlier` are the rounds before, of best-of-n alone.
    """
    section = METHOD_SECTIONS[method]
    train = getattr(import_module(f"rlhf.{section}.stage"), _FUNCTIONS[section])
    cluster = current().cluster
    if section == "rl" and cluster.backend == "ray":
        from rlhf.cluster.group import run_group

        copy_address = address_of(cluster.checkpoint_uri, attempt.workspace.checkpoints.parent)
        train = partial(train, start_processes=partial(run_group, cluster, copy_address))
    try:
        train(
            method,
            attempt.policy(config),
            attempt.setup(setup),
            attempt.path(data),
            attempt.path(start),
            attempt.path(reward_models),
            attempt.workspace,
            *([[attempt.path(policy) for policy in earlier]] if earlier else []),
        )
    except StartError as error:
        set_alarms(attempt.run_id, [error.alarm])
        set_alarms(current().run_id, [error.alarm])
        raise
    summary = json.loads((attempt.workspace.output / "summary.json").read_text())
    set_alarms(attempt.run_id, [alarm["name"] for alarm in summary["alarms"]])
    return attempt.save(PolicyRef)

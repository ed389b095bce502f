"""Training from rollouts as a stage: in this process, or in several that are started for it."""

from collections.abc import Callable
from pathlib import Path

from rlhf.config.model import Setup
from rlhf.config.rl import RLConfig, rollout_error, sharing_error
from rlhf.errors import ConfigError
from rlhf.policy.distributed import num_started
from rlhf.rl.launch import train_in_processes
from rlhf.rl.request import RLRequest
from rlhf.rl.trainer import train
from rlhf.workspace import Workspace


def train_from_rollouts(
    method: str,
    config: RLConfig,
    setup: Setup,
    data: Path,
    start: Path,
    reward_models: Path,
    workspace: Workspace,
    *,
    start_processes: Callable[[RLRequest, Workspace], None] = train_in_processes,
) -> None:
    """Train by a method that learns from rollouts.

    The chosen policy, the evaluations and their generations are left in `workspace.output`.

    With `compute.num_processes` above 1 the work is done by as many processes, of which the first one writes. They are
    started here, unless a launcher has started this very process as one of them.

    Args:
        method: one of `rlhf.config.rl.ROLLOUT_METHODS`.
        config: its settings.
        setup: seed, model and compute.
        data: the data stage's output.
        start: the SFT stage's output; its policy is also the reference.
        reward_models: the reward stage's output.
        workspace: a run that was killed goes on from `workspace.checkpoints`.
        start_processes: has several processes do the work: on this machine, or as a group of a cluster.

    Raises:
        TrainingDivergedError: a loss, a logit or a weight that is not finite.
        StartError: sampling, KL or ratio is wrong at the start.
        DataError: there are no prompts.
        ConfigError: the method cannot work as configured; processes or threads cannot share the work as they are told
            to, or more or fewer were started; a
            reward source that is not there.
        ModelError: a model cannot be loaded, or not in the role that `config.sharing` gives it.
        ScoringError: a source failed, or its scores are not one finite number for each response.
        CheckpointError: a checkpoint cannot be written, or is of another configuration.
        ArtifactMismatchError: a checkpoint is not what was written.
        DiskSpaceError: there is no room for the checkpoints.
        ProcessesError: a process died, or they no longer hold the same weights.
    """
    if reason := rollout_error(method, config) or sharing_error(config, setup.compute):
        raise ConfigError(reason)
    several = setup.compute.num_processes > 1 and num_started() == 1
    folders = {"output": workspace.output, "report": workspace.report, "checkpoints": workspace.checkpoints}
    request = RLRequest(
        method=method, rl=config, setup=setup, data=data, start=start, reward_models=reward_models, **folders
    )
    (start_processes if several else train)(request, workspace)

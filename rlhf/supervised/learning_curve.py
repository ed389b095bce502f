"""A reward model's learning curve: an audit with reward models trained on parts of the pairs, by the same settings."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from rlhf.config.evaluation import RewardAuditConfig
from rlhf.config.model import Setup
from rlhf.config.supervised import RewardModelConfig, policy_name
from rlhf.data.preparation.splits import prompt_key
from rlhf.data.schema import Row, read_rows
from rlhf.errors import DataError
from rlhf.evaluation.learning_curve import SHARES
from rlhf.evaluation.reward_audit import audit_reward_models
from rlhf.modeling.context import start_stage
from rlhf.supervised.reward_model import Context, Inputs, member_rows, read_inputs, train_to_end
from rlhf.supervised.trainer import train_once
from rlhf.workspace import Workspace

_FIRST = "reward_model"


def audit_with_learning_curve(
    config: RewardAuditConfig,
    training: RewardModelConfig,
    setup: Setup,
    data: Path,
    start: Path,
    reward_models: Path,
    workspace: Workspace,
) -> None:
    """Train reward models on parts of the pairs, and audit those of the run with the curve of all.

    The parts are nested: the first prompts, with all their pairs, of one random order. The last point of the curve is
    the run's own reward model, of an ensemble its first member. A model that was finished before the stage was killed
    is not trained again.

    Args:
        config: settings of the audit.
        training: settings of the reward models.
        setup: seed, model and compute.
        data: prepared data.
        start: output of the SFT stage.
        reward_models: output of the reward-model stage.
        workspace: where results, checkpoints and metrics go.

    Raises:
        DataError: there are too few prompts for the parts.
        TrainingDivergedError: the loss or a weight of a model is not finite.
    """
    context = start_stage(training, setup, data / "tokenizer")
    train = [row for _, row in read_rows(data / "preferences" / "train.jsonl", "preferences")]
    whole = member_rows(context, train)[_FIRST]
    parts = _parts(context, whole)
    starts = {_name(rows): start / policy_name(1) for rows in parts}
    inputs = read_inputs(context, data, "reward_audit", starts)
    folders = {}
    for rows in parts:
        train_part = partial(_train_part, context, rows, inputs)
        folders[len(rows)] = train_once(_name(rows), train_part, workspace) / "model"
    curve = {**folders, len(whole): reward_models / _FIRST}
    audit_reward_models(config, setup, data, reward_models, workspace, curve)


def _parts(context: Context, rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of the first prompts of a random order, by the shares of the curve but for all of them.

    Raises:
        DataError: two parts are the same.
    """
    keys = [prompt_key(row["prompt"]) for row in rows]
    different = sorted(set(keys))
    order = np.random.default_rng(context.seed("learning_curve")).permutation(len(different))
    parts = []
    for share in SHARES[:-1]:
        taken = {different[place] for place in order[: round(share * len(different))]}
        parts.append([row for row, key in zip(rows, keys, strict=True) if key in taken])
    if not parts[0] or len({*map(len, parts), len(rows)}) < len(SHARES):
        raise DataError(
            f"preferences/train.jsonl: pairs of {len(different)} prompts make no parts of "
            f"{', '.join(f'{share:g}' for share in SHARES)}; give more data, or set reward_audit.learning_curve "
            f"to false"
        )
    return parts


def _name(rows: Sequence[Row]) -> str:
    return f"learning_curve_{len(rows)}"


def _train_part(context: Context, rows: Sequence[Row], inputs: Inputs, folder: Path, workspace: Workspace) -> None:
    """Train one model without its own metrics but for the seconds that it took, by its pairs."""
    started = time.monotonic()
    train_to_end(context, _name(rows), rows, inputs, folder, replace(workspace, log_metrics=lambda metrics, step: None))
    workspace.log_metrics({"reward_audit/learning_curve_seconds": time.monotonic() - started}, len(rows))

"""Training from given preferences as a stage: DPO, IPO, KTO, SimPO."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.config.model import Setup
from rlhf.config.preference import PREFERENCE_METHODS, PreferenceConfig, preference_error
from rlhf.errors import ConfigError
from rlhf.modeling.batches import pad_sequences
from rlhf.modeling.context import start_stage
from rlhf.policy.context import PolicyContext, Prompts
from rlhf.policy.models import load_policy_models
from rlhf.preference.held_out import HeldOutPairs
from rlhf.preference.losses import balanced_weights, logistic_loss, prospect_loss, squared_loss
from rlhf.preference.rows import PreferenceRow, logprob_sums, read_pairs, read_single, with_references
from rlhf.supervised.offline import Objective, batch_logprobs, train_offline
from rlhf.workspace import Workspace

Context = PolicyContext[PreferenceConfig]


def train_on_preferences(
    method: str,
    config: PreferenceConfig,
    setup: Setup,
    data: Path,
    start: Path,
    reward_models: Path,
    workspace: Workspace,
) -> None:
    """Train by a method that learns from given preferences.

    The chosen policy, the evaluations and their generations are left in `workspace.output`.

    Args:
        method: one of `rlhf.config.preference.PREFERENCE_METHODS`.
        config: its settings.
        setup: seed, model and compute.
        data: the data stage's output.
        start: the SFT stage's output; its policy is also the reference.
        reward_models: the reward stage's output, which scores held-out responses.
        workspace: a run that was killed goes on from `workspace.checkpoints`.

    Raises:
        ConfigError: the method would ignore a setting; a reward source that is not there.
        DataError: there are no prompts or pairs, or single responses of one kind only.
        ModelError: a model cannot be loaded.
        TrainingDivergedError: a loss, a logit or a weight that is not finite.
        ScoringError: a source failed, or its scores are not one finite number for each response.
        CheckpointError: something cannot be written.
        DiskSpaceError: there is no room for the checkpoints.
    """
    if reason := preference_error(method, config):
        raise ConfigError(reason)
    stage = start_stage(config, setup, start / "policy")
    if method == "kto":
        rows = read_single(data, stage.tokenizer, stage.seed("policy", "other-prompts"))
    else:
        rows = read_pairs(data / "preferences" / "train.jsonl", stage.tokenizer)
    held_out = read_pairs(data / "preferences" / "validation.jsonl", stage.tokenizer)[: config.num_validation_prompts]
    models = load_policy_models(stage, start, reward_models)
    context = PolicyContext(config, setup, stage.tokenizer, models, Prompts([], []))
    has_reference = method != "simpo"
    rows = with_references(context, rows) if has_reference else rows
    objective = unpaired_objective(context, rows) if method == "kto" else paired_objective(method, context)
    watch = HeldOutPairs(context, with_references(context, held_out), has_reference, is_by_mean(method, config))
    train_offline(context, config.alarms, data, rows, [row.num_tokens for row in rows], objective, workspace, watch)


def is_by_mean(method: str, config: PreferenceConfig) -> bool:
    """Whether a response's implicit reward is a mean over its tokens."""
    return method == "simpo" or config.length_normalized


def paired_objective(method: str, context: Context) -> Objective[PreferenceRow]:
    """The loss of pairs: of DPO, IPO or SimPO."""
    config = context.config
    beta = config.beta or PREFERENCE_METHODS[method].beta
    margin = (1.0 if config.target_margin is None else config.target_margin) if method == "simpo" else 0.0
    by_mean = is_by_mean(method, config)

    def loss(model: Any, rows: Sequence[PreferenceRow]) -> Tensor:
        logprobs, lengths = _logprobs(context, model, rows)
        rewards = logprobs if method == "simpo" else logprobs - _references(context, rows)
        chosen, rejected = (rewards / lengths if by_mean else rewards).unbind(1)
        if method == "ipo":
            return squared_loss(chosen - rejected, beta).sum()
        return logistic_loss(chosen - rejected, beta, config.label_smoothing, margin).sum()

    return Objective(loss)


def unpaired_objective(context: Context, rows: Sequence[PreferenceRow]) -> Objective[PreferenceRow]:
    """The loss of single responses, of KTO. Its reference point is estimated once a step, on the whole batch."""
    config = context.config
    beta = config.beta or PREFERENCE_METHODS["kto"].beta
    num_wanted = sum(row.desirable for row in rows)
    weights = balanced_weights(num_wanted, len(rows) - num_wanted, config.desirable_weight, config.undesirable_weight)
    kl = torch.zeros((), device=context.compute.device)

    def before_step(model: Any, batch: Sequence[PreferenceRow]) -> None:
        others = [replace(row, responses=row.responses[1:]) for row in batch]
        log_ratios = logprob_sums(context, model, others)[:, 0] - [row.ref_logprobs[1] for row in batch]
        kl.fill_(max(0.0, float(log_ratios.mean())))

    def loss(model: Any, batch: Sequence[PreferenceRow]) -> Tensor:
        own = [replace(row, responses=row.responses[:1]) for row in batch]
        log_ratio = _logprobs(context, model, own)[0][:, 0] - _references(context, batch)[:, 0]
        desirable = torch.tensor([row.desirable for row in batch], device=log_ratio.device)
        return prospect_loss(log_ratio, desirable, kl, beta, weights).sum()

    return Objective(loss, before_step=before_step)


def _logprobs(context: Context, model: Any, rows: Sequence[PreferenceRow]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the rows' responses, summed over tokens, and their tokens, [B, 1 or 2] both."""
    prompts = [row.prompt for row in rows for _ in row.responses]
    responses = [response for row in rows for response in row.responses]
    batch = pad_sequences(prompts, responses, context.tokenizer.pad_token_id, context.compute.device)
    sums = batch_logprobs(context, model, batch).sum(1)
    return sums.view(len(rows), -1), batch.response_mask.sum(1).view(len(rows), -1)


def _references(context: Context, rows: Sequence[PreferenceRow]) -> Tensor:
    return torch.tensor([row.ref_logprobs for row in rows], device=context.compute.device)

"""One PPO update: passes over a rollout in minibatches, each a real optimizer step.

Shapes: M rows of a minibatch, R response columns.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from rlhf.compute import autocast, seeded
from rlhf.config import PPOConfig, Setup
from rlhf.logprobs import chosen_logprobs, entropy, response_logits
from rlhf.ppo.loss import policy_loss, value_loss
from rlhf.ppo.rollout import Models, Rollout, micro_batches

ADAM_EPS = 1e-5


@dataclass(frozen=True)
class Optimizers:
    """AdamW for the policy and for the value model."""

    policy: Optimizer
    value: Optimizer


@dataclass(frozen=True)
class MinibatchStatistics:
    """Means over a minibatch's tokens; the policy's are missing where only the critic learned."""

    values: dict[str, float]


def make_optimizers(config: PPOConfig, models: Models) -> Optimizers:
    """Optimizers over whatever of the two models is trained."""
    return Optimizers(
        _adamw(models.policy, config.learning_rate), _adamw(models.value_model, config.value_learning_rate)
    )


def set_learning_rates(optimizers: Optimizers, config: PPOConfig, update: int) -> float:
    """Set both learning rates for an update and return the share of the peak that they have."""
    share = 1.0 - update / config.num_updates if config.learning_rate_schedule == "linear" else 1.0
    for optimizer, peak in (
        (optimizers.policy, config.learning_rate),
        (optimizers.value, config.value_learning_rate),
    ):
        for group in optimizer.param_groups:
            group["lr"] = peak * share
    return share


def learn(
    config: PPOConfig, setup: Setup, models: Models, optimizers: Optimizers, rollout: Rollout, update: int
) -> list[MinibatchStatistics]:
    """Take num_ppo_epochs x num_minibatches optimizer steps, fewer where target_kl stops them.

    Returns:
        Statistics of every minibatch, in order. The first one's `ratio_error` is max |ratio - 1|.
    """
    statistics = []
    num_rows = len(rollout.batch.input_ids)
    for epoch in range(config.num_ppo_epochs):
        generator = torch.Generator().manual_seed(seeded(setup.seed, "minibatches", update, epoch))
        order = torch.randperm(num_rows, generator=generator).to(rollout.batch.input_ids.device)
        of_epoch = [
            step_minibatch(
                config, setup, models, optimizers, rollout, index, update >= config.num_critic_warmup_updates
            )
            for index in order.split(config.minibatch_size)
        ]
        statistics += of_epoch
        kl = sum(s.values.get("approx_kl", 0.0) for s in of_epoch) / len(of_epoch)
        if config.target_kl is not None and kl > config.target_kl:
            break
    return statistics


def step_minibatch(
    config: PPOConfig,
    setup: Setup,
    models: Models,
    optimizers: Optimizers,
    rollout: Rollout,
    index: Tensor,
    train_policy: bool,
) -> MinibatchStatistics:
    """One optimizer step on the rows `index`, in micro-batches whose sums make up the whole minibatch's mean."""
    totals: dict[str, float] = defaultdict(float)
    num_tokens = int(rollout.batch.response_mask[index].sum())
    for rows in micro_batches(rollout.batch, index, config.micro_batch_size or config.minibatch_size):
        value_totals = _accumulate_value(config, setup, models, rollout, rows, num_tokens)
        policy_totals = _accumulate_policy(config, setup, models, rollout, rows, num_tokens) if train_policy else {}
        for name, value in (value_totals | policy_totals).items():
            totals[name] = max(totals[name], value) if name == "ratio_error" else totals[name] + value
    means = {name: value if name == "ratio_error" else value / num_tokens for name, value in totals.items()}
    means["value_grad_norm"] = _step(optimizers.value, config)
    if train_policy:
        means["policy_grad_norm"] = _step(optimizers.policy, config)
    return MinibatchStatistics(means)


def _accumulate_policy(
    config: PPOConfig, setup: Setup, models: Models, rollout: Rollout, rows: Tensor, num_tokens: int
) -> dict[str, float]:
    batch = rollout.batch.rows(rows)
    mask, columns = batch.response_mask, slice(0, batch.num_response_tokens)
    with autocast(setup.compute):
        logits = response_logits(models.policy, batch, config.temperature)
    logprobs = chosen_logprobs(logits, batch.responses)
    old_logprobs = rollout.old_logprobs[rows, columns]
    loss = policy_loss(logprobs, old_logprobs, rollout.advantages[rows, columns], mask, config.clip_range)
    with torch.set_grad_enabled(config.entropy_coef > 0):
        entropy_sum = entropy(logits).masked_fill(~mask, 0.0).sum()
    total = loss.loss - config.entropy_coef * entropy_sum if config.entropy_coef > 0 else loss.loss
    (total / num_tokens).backward()
    ratio_error = ((logprobs.detach() - old_logprobs).exp() - 1.0).abs().masked_fill(~mask, 0.0).max()
    return {
        "policy_loss": float(loss.loss.detach()),
        "clip_fraction": float(loss.num_clipped),
        "approx_kl": float(loss.approx_kl),
        "entropy": float(entropy_sum.detach()),
        "ratio_error": float(ratio_error),
    }


def _accumulate_value(
    config: PPOConfig, setup: Setup, models: Models, rollout: Rollout, rows: Tensor, num_tokens: int
) -> dict[str, float]:
    batch = rollout.batch.rows(rows)
    columns = slice(0, batch.num_response_tokens)
    with autocast(setup.compute):
        values = models.value_model(batch)
    loss = value_loss(
        values,
        rollout.values[rows, columns],
        rollout.returns[rows, columns],
        batch.response_mask,
        config.value_clip_range,
    )
    (config.value_coef * loss.loss / num_tokens).backward()
    return {"value_loss": float(loss.loss.detach()), "value_clip_fraction": float(loss.num_clipped)}


def _step(optimizer: Optimizer, config: PPOConfig) -> float:
    """Clip, step and clear; returns the gradient's norm before clipping."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    if torch.isfinite(norm):  # the trainer stops on what is not, with the weights still good
        optimizer.step()
    optimizer.zero_grad()
    return float(norm)


def _adamw(model: torch.nn.Module, learning_rate: float) -> Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return AdamW(parameters, lr=learning_rate, eps=ADAM_EPS, weight_decay=0.0, fused=True)

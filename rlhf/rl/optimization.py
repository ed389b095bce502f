"""One update: passes over a rollout in minibatches, each a real optimizer step.

Shapes: M rows of a minibatch, R response columns.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from rlhf.config.rl import RLConfig
from rlhf.modeling.batches import SequenceBatch, batches_by_length
from rlhf.modeling.cpu.parallel import side_by_side
from rlhf.modeling.device import cached_casts
from rlhf.modeling.logprobs import chosen_logprobs, chosen_logprobs_and_entropy, response_logits
from rlhf.modeling.precision import autocast
from rlhf.policy import distributed as processes
from rlhf.policy.kl import kl_k3
from rlhf.policy.sampling import micro_batches
from rlhf.policy.sharding import gathered
from rlhf.rl.context import Optimizers, RLContext
from rlhf.rl.loss import policy_loss, value_loss
from rlhf.rl.ptx import demonstration_loss
from rlhf.rl.rollout import Rollout, compared_anew
from rlhf.rl.value_model import TrunkValueHead

Totals = dict[str, Tensor]
Losses = Callable[[Tensor, SequenceBatch], tuple[Tensor, Totals]]


MinibatchStatistics = dict[str, float]
"""Means over a minibatch's tokens; the policy's are missing where only the critic learned."""


def set_learning_rates(optimizers: Optimizers, config: RLConfig, update: int) -> float:
    """Set both learning rates for an update and return the share of the peak that they have."""
    share = 1.0 - update / config.num_updates if config.learning_rate_schedule == "linear" else 1.0
    for optimizer, peak in (
        (optimizers.policy, config.learning_rate),
        (optimizers.value, config.value_learning_rate),
    ):
        for group in optimizer.param_groups if optimizer is not None else ():
            group["lr"] = peak * share
    return share


def optimize(context: RLContext, rollout: Rollout, update: int) -> list[MinibatchStatistics]:
    """Take num_ppo_epochs x num_minibatches optimizer steps, fewer where target_kl stops them.

    Returns:
        Statistics of every minibatch, in order. The first one's `ratio_error` is max |ratio - 1|.
    """
    config, statistics = context.config, list[MinibatchStatistics]()
    for epoch in range(config.num_ppo_epochs):
        generator = torch.Generator().manual_seed(context.seed("minibatches", update, epoch))
        order = _shuffled(context, generator).to(rollout.batch.input_ids.device)
        of_epoch = [
            train_minibatch(context, rollout, index, update, len(statistics) + number)
            for number, index in enumerate(order.split(config.minibatch_size))
        ]
        statistics += of_epoch
        kl = sum(s.get("approx_kl", 0.0) for s in of_epoch) / len(of_epoch)
        if config.target_kl is not None and kl > config.target_kl:
            break
    return statistics


def _shuffled(context: RLContext, generator: torch.Generator) -> Tensor:
    """A rollout's rows in random order, [B]; where groups are compared each stays together."""
    size = context.config.num_responses_per_prompt if context.algorithm.method.has_groups else 1
    groups = torch.randperm(context.config.rollout_size // size, generator=generator)
    return (groups[:, None] * size + torch.arange(size)).flatten()


def train_minibatch(
    context: RLContext, rollout: Rollout, index: Tensor, update: int, number: int
) -> MinibatchStatistics:
    """One optimizer step of each model on the rows `index`.

    Gradients are accumulated over micro-batches, and over processes, whose sums make up the whole minibatch's mean.
    The two models take turns, so that only one of them has gradients at a time, unless they work side by side.

    Args:
        context: of the run.
        rollout: the whole rollout.
        index: row numbers of the minibatch, [M].
        update: number of the update; early ones may be the critic's alone.
        number: of the minibatch within the update; it decides the demonstrations of PPO-ptx.
    """
    config, models = context.config, context.models
    train_policy = not context.algorithm.method.has_critic or update >= config.num_critic_warmup_updates
    if context.algorithm.by_pairs and number > 0:
        rollout = compared_anew(context, rollout, index)
    step = MinibatchLoss(context, rollout, index, train_policy)
    norms = {}
    if context.optimizers.value is None:
        step.accumulate(step.policy)
    elif isinstance(models.value_model, TrunkValueHead):
        step.accumulate(step.both)
        norms["value_grad_norm"] = _optimizer_step(context.optimizers.value, config)
    elif config.side_by_side and train_policy:
        step.accumulate_side_by_side()
        norms["value_grad_norm"] = _optimizer_step(context.optimizers.value, config)
    else:
        step.accumulate(step.value)
        norms["value_grad_norm"] = _optimizer_step(context.optimizers.value, config)
        if train_policy:
            step.accumulate(step.policy)
    if train_policy:
        if context.demonstrations is not None:
            loss = demonstration_loss(context, context.demonstrations, models.policy, update, number)
            norms["ptx_loss"] = float(loss)
        norms["policy_grad_norm"] = _optimizer_step(context.optimizers.policy, config)
    return step.means() | norms


def _whole_groups(rollout: Rollout, config: RLConfig) -> list[Tensor]:
    """A rollout's rows in pieces of whole groups of like length, the longest first."""
    size, device = config.num_responses_per_prompt, rollout.batch.input_ids.device
    longest = rollout.batch.lengths.view(-1, size).amax(1).tolist()
    pieces = batches_by_length(longest, config.rows_per_pass // size)
    return [
        (torch.tensor(groups, device=device)[:, None] * size + torch.arange(size, device=device)).flatten()
        for groups in pieces
    ]


class MinibatchLoss:
    """The losses of one minibatch, summed over the micro-batches that this process has of it."""

    def __init__(self, context: RLContext, rollout: Rollout, index: Tensor, train_policy: bool) -> None:
        self.context, self.rollout, self.train_policy = context, rollout, train_policy
        config = context.config
        if rollout.settle is None:
            by_length = torch.cat(micro_batches(rollout.batch, index, len(index)))
            own = processes.local_rows(by_length)
            self.micro_batches = micro_batches(rollout.batch, own, config.rows_per_pass)
        else:
            self.micro_batches = _whole_groups(rollout, config)
        mask, averaging = rollout.batch.response_mask[index], context.algorithm.averaging
        self.num_tokens = int(mask.sum())
        self.divisor = averaging.divisor(mask, config.max_response_tokens)
        self.row_weights = averaging.row_weights
        self.totals: Totals = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        self.ratio_error = torch.zeros(())

    def accumulate(self, losses: Losses) -> None:
        """Call a function of rows on every micro-batch and let its loss's gradients add up."""
        with cached_casts(self.context.compute):
            for rows in self.micro_batches:
                loss, totals = losses(rows, self.rollout.batch.rows(rows))
                (loss / self.divisor).backward()
                for name, value in totals.items():
                    self.totals[name] = self.totals[name] + value.detach().double().cpu()

    def accumulate_side_by_side(self) -> None:
        """The passes of both models at the same time."""
        compute = self.context.compute
        side_by_side(compute, lambda: self.accumulate(self.policy), lambda: self.accumulate(self.value))

    def value(self, rows: Tensor, batch: SequenceBatch) -> tuple[Tensor, Totals]:
        """The value model's own pass and loss."""
        with autocast(self.context.compute):
            values = self._value_model(batch)
        return self._value_loss(rows, batch, values)

    def policy(self, rows: Tensor, batch: SequenceBatch) -> tuple[Tensor, Totals]:
        """The policy's own pass and loss."""
        return self._policy_loss(rows, batch, self._logits(batch))

    def both(self, rows: Tensor, batch: SequenceBatch) -> tuple[Tensor, Totals]:
        """One pass for both losses; while only the critic learns, its gradient stops at the head."""
        with torch.set_grad_enabled(self.train_policy):
            logits = self._logits(batch)
        values = self._value_model(batch, learn_backbone=self.train_policy)
        loss, totals = self._value_loss(rows, batch, values)
        if self.train_policy:
            policy_loss, of_policy = self._policy_loss(rows, batch, logits)
            loss, totals = loss + policy_loss, totals | of_policy
        return loss, totals

    def _value_model(self, batch: SequenceBatch, **learning: bool) -> Tensor:
        model = self.context.models.value_model
        assert model is not None, "the method has no critic"
        values: Tensor = model(batch, **learning)
        return values

    def means(self) -> dict[str, float]:
        """Means over the tokens of the whole minibatch, of all processes."""
        names = sorted(self.totals)
        sums = processes.all_reduce_sum(torch.stack([self.totals[name] for name in names])) / self.num_tokens
        means = dict(zip(names, sums.tolist(), strict=True))
        if self.train_policy:
            means["ratio_error"] = float(processes.all_reduce_max(self.ratio_error))
        return means

    def _logits(self, batch: SequenceBatch) -> Tensor:
        with autocast(self.context.compute):
            return response_logits(self.context.models.policy, batch)

    def _policy_loss(self, rows: Tensor, batch: SequenceBatch, logits: Tensor) -> tuple[Tensor, Totals]:
        config, columns = self.context.config, slice(0, batch.num_response_tokens)
        mask = batch.response_mask
        bonus = torch.zeros((), device=logits.device)
        settle = self.rollout.settle
        if config.entropy_coef > 0 or settle is not None:
            logprobs, entropy = chosen_logprobs_and_entropy(logits, batch.responses, config.temperature)
            bonus = config.entropy_coef * entropy.masked_fill(~mask, 0.0).sum()
            if settle is not None:
                settle(rows, logprobs.detach(), entropy.detach())
        else:
            logprobs = chosen_logprobs(logits, batch.responses, config.temperature)
        old_logprobs = self.rollout.old_logprobs[rows, columns]
        weights = None if self.row_weights is None else self.row_weights(mask)
        advantages = self.rollout.advantages[rows, columns]
        loss = policy_loss(logprobs, old_logprobs, advantages, mask, config.clip_range, weights)
        error = ((logprobs.detach() - old_logprobs).exp() - 1.0).abs().masked_fill(~mask, 0.0).max()
        self.ratio_error = torch.maximum(self.ratio_error, error.cpu())
        totals = {"policy_loss": loss.loss, "clip_fraction": loss.num_clipped, "approx_kl": loss.approx_kl}
        if self.rollout.loss_kl_coef == 0.0:
            return loss.loss - bonus, totals
        kl = kl_k3(logprobs, self.rollout.ref_logprobs[rows, columns])
        kl = (kl if weights is None else kl * weights[:, None]).masked_fill(~mask, 0.0).sum()
        return loss.loss - bonus + self.rollout.loss_kl_coef * kl, totals

    def _value_loss(self, rows: Tensor, batch: SequenceBatch, values: Tensor) -> tuple[Tensor, Totals]:
        config, columns = self.context.config, slice(0, batch.num_response_tokens)
        assert self.rollout.values is not None, "the method has a critic"
        assert self.rollout.returns is not None, "the method has a critic"
        loss = value_loss(
            values,
            self.rollout.values[rows, columns],
            self.rollout.returns[rows, columns],
            batch.response_mask,
            config.value_clip_range,
        )
        return config.value_coef * loss.loss, {"value_loss": loss.loss, "value_clip_fraction": loss.num_clipped}


def _optimizer_step(optimizer: Optimizer, config: RLConfig) -> float:
    """Sum over processes, clip, step and clear; returns the gradient's norm before clipping."""
    parameters: Sequence[Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
    processes.sum_gradients(parameters)
    norm = gathered(torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm))
    if torch.isfinite(norm):  # the trainer stops on what is not, with the weights still good
        optimizer.step()
    optimizer.zero_grad()
    return float(norm)

"""Faults that are planted into PPO from outside, to see that the optimum benchmark sees them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf.modeling.batches import SequenceBatch
from rlhf.policy.kl import token_rewards
from rlhf.policy.masking import masked_whiten
from rlhf.policy.sampling import response_logprobs_of
from rlhf.rl import rollout as rollouts
from rlhf.rl.context import RLContext
from rlhf.rl.optimization import MinibatchStatistics, optimize
from rlhf.rl.rollout import Rollout
from rlhf.rl.value_model import ValueModel, head_values


@contextmanager
def _values_after_tokens() -> Iterator[None]:
    """The value of the state that a token leads to stands in the place of the state that it is drawn in."""

    def forward(self: ValueModel, batch: SequenceBatch) -> Tensor:
        hidden = self.backbone(input_ids=batch.input_ids, use_cache=False).last_hidden_state
        rows = torch.arange(len(hidden))[:, None]
        return head_values(self.head, hidden[rows, batch._columns(hidden.shape[1])])

    with patch.object(ValueModel, "forward", forward):
        yield


@contextmanager
def _learning_from(changed: Callable[[RLContext, Rollout], Rollout]) -> Iterator[None]:
    """What is learned from is something else than what was collected."""

    def from_changed(context: RLContext, rollout: Rollout, update: int) -> list[MinibatchStatistics]:
        return optimize(context, changed(context, rollout), update)

    with patch("rlhf.rl.update.optimize", from_changed):
        yield


def _eos_masked(context: RLContext, rollout: Rollout) -> Rollout:
    """Nothing is learned from EOS, which is what happens where EOS is the pad token and padding is masked."""
    mask = rollout.batch.response_mask & (rollout.batch.responses != context.tokenizer.eos_token_id)
    advantages = rollout.advantages
    if rollout.returns is not None and rollout.values is not None:
        advantages = masked_whiten(rollout.returns - rollout.values, mask)
    return replace(rollout, batch=replace(rollout.batch, response_mask=mask), advantages=advantages)


def _next_advantage(_: RLContext, rollout: Rollout) -> Rollout:
    """A token is weighted by the advantage of the token after it, the last one of a response by 0."""
    return replace(rollout, advantages=pad(rollout.advantages[:, 1:], (0, 1)))


def _handed_on(context: RLContext, rollout: Rollout) -> Rollout:
    """Each response of a group has the advantage of the one before it."""
    size = context.config.num_responses_per_prompt
    by_group = rollout.advantages[:, 0].view(-1, size).roll(1, dims=1).reshape(-1, 1)
    mask = rollout.batch.response_mask
    return replace(rollout, advantages=by_group.expand(mask.shape).masked_fill(~mask, 0.0))


@contextmanager
def _kl_with_the_wrong_sign() -> Iterator[None]:
    """The penalty on the KL is a reward for it."""
    original = token_rewards

    def rewards(scores: Tensor, kl: Tensor, response_mask: Tensor, kl_coef: float) -> Tensor:
        return original(scores, kl, response_mask, -kl_coef)

    with patch.object(rollouts, "token_rewards", rewards):
        yield


@contextmanager
def _reference_without_temperature() -> Iterator[None]:
    """The reference's log-probabilities are those of temperature 1."""
    original = response_logprobs_of

    def logprobs_of(context: RLContext, model: object, batch: SequenceBatch) -> Tensor:
        hot = context.config.model_copy(update={"temperature": 1.0})
        return original(replace(context, config=hot), model, batch)

    with patch.object(rollouts, "response_logprobs_of", logprobs_of):
        yield


FAULTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "": nullcontext,
    "value-after-token": _values_after_tokens,
    "eos-masked": lambda: _learning_from(_eos_masked),
    "handed-on": lambda: _learning_from(_handed_on),
    "kl-sign": _kl_with_the_wrong_sign,
    "next-advantage": lambda: _learning_from(_next_advantage),
    "reference-at-T1": _reference_without_temperature,
}
"""By name; inside of each, PPO has the fault."""

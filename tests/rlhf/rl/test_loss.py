"""PPO's losses against numbers by hand, autograd against the closed form, and properties."""

import math

import pytest
import torch

from rlhf.rl.loss import explained_variance, policy_loss, value_loss

KEEP = torch.ones(1, 4, dtype=torch.bool)


def test_policy_loss_by_hand():
    ratio = torch.tensor([[1.5, 1.5, 0.5, 0.5]])
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    result = policy_loss(ratio.log(), torch.zeros(1, 4), advantages, KEEP, clip_range=0.2)
    # max(-A r, -A clip(r)): max(-1.5, -1.2), max(1.5, 1.2), max(-0.5, -0.8), max(0.5, 0.8)
    assert result.loss.item() == pytest.approx(-1.2 + 1.5 - 0.5 + 0.8)
    assert result.num_clipped.item() == 2
    assert result.approx_kl.item() == pytest.approx(float((ratio - 1 - ratio.log()).sum()))


def test_gradient_at_ratio_1_is_minus_the_advantages():
    logprobs = torch.randn(2, 3, requires_grad=True)
    advantages, mask = torch.randn(2, 3), torch.tensor([[True, True, False], [True, True, True]])
    policy_loss(logprobs, logprobs.detach(), advantages, mask, 0.2).loss.backward()
    torch.testing.assert_close(logprobs.grad, -advantages * mask)


def test_clipped_tokens_have_no_gradient():
    logprobs = torch.tensor([[math.log(1.5), math.log(0.5)]], requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    policy_loss(logprobs, torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]), mask, 0.2).loss.backward()
    assert logprobs.grad.tolist() == [[0.0, 0.0]]


def test_value_loss_by_hand():
    values, old = torch.tensor([[1.0, 1.0, 0.1, -1.0]]), torch.zeros(1, 4)
    returns = torch.tensor([[2.0, 0.0, 0.0, 2.0]])
    result = value_loss(values, old, returns, KEEP, clip_range=0.2)
    # near = 0.2, 0.2, 0.1, -0.2: max of (1, 3.24), (1, 0.04), (0.01, 0.01), (9, 4.84)
    assert result.loss.item() == pytest.approx(0.5 * (3.24 + 1.0 + 0.01 + 9.0))
    assert result.num_clipped.item() == 1


@pytest.mark.parametrize("wild", [1e6, float("nan"), float("inf")])
def test_what_stands_under_the_mask_changes_nothing(wild):
    mask = torch.tensor([[True, True, False]])
    logprobs, other = torch.randn(1, 3), torch.randn(1, 3)
    spoiled = logprobs.masked_fill(~mask, wild)
    assert policy_loss(spoiled, other, other, mask, 0.2).loss == policy_loss(logprobs, other, other, mask, 0.2).loss
    assert value_loss(spoiled, other, other, mask, 0.2).loss == value_loss(logprobs, other, other, mask, 0.2).loss


def test_losses_are_sums_so_parts_add_up():
    logprobs, old, advantages = torch.randn(6, 5), torch.randn(6, 5), torch.randn(6, 5)
    mask = torch.rand(6, 5) > 0.3
    whole = policy_loss(logprobs, old, advantages, mask, 0.2).loss
    parts = [policy_loss(logprobs[r], old[r], advantages[r], mask[r], 0.2).loss for r in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(sum(parts), whole)


def test_explained_variance():
    returns, mask = torch.tensor([[1.0, 2.0, 3.0, 50.0]]), torch.tensor([[True, True, True, False]])
    assert explained_variance(returns, returns, mask) == 1.0
    assert explained_variance(torch.zeros(1, 4), returns, mask) == pytest.approx(0.0)
    assert explained_variance(-returns, returns, mask) == pytest.approx(-3.0)
    assert explained_variance(returns, torch.ones(1, 4), mask) == 0.0

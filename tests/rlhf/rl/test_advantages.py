"""GAE against numbers by hand, a direct sum of the definition, and its properties."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.policy.masking import masked_whiten
from rlhf.rl.advantages import estimate_advantages


def lengths_mask(lengths: list[int], columns: int) -> torch.Tensor:
    return torch.arange(columns) < torch.tensor(lengths)[:, None]


def by_definition(rewards, values, mask, gamma, lam):
    """A_t = sum over k of (gamma lambda)^k delta_{t+k}, row by row."""
    advantages = torch.zeros_like(rewards)
    for row in range(len(rewards)):
        length = int(mask[row].sum())
        r, v = rewards[row, :length].tolist(), [*values[row, :length].tolist(), 0.0]
        deltas = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            advantages[row, t] = sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, length))
    return advantages


def test_two_tokens_by_hand():
    rewards, values = torch.tensor([[0.5, 1.0]]), torch.tensor([[0.2, 0.4]])
    result = estimate_advantages(rewards, values, torch.ones(1, 2, dtype=torch.bool), gamma=0.9, gae_lambda=0.5)
    # delta_1 = 1.0 - 0.4 = 0.6; delta_0 = 0.5 + 0.9 * 0.4 - 0.2 = 0.66; A_0 = 0.66 + 0.45 * 0.6 = 0.93
    torch.testing.assert_close(result.returns, torch.tensor([[0.93 + 0.2, 0.6 + 0.4]]))
    torch.testing.assert_close(result.advantages, torch.tensor([[1.0, -1.0]]), rtol=1e-5, atol=1e-5)


def test_lambda_1_and_gamma_1_returns_are_the_rewards_to_come():
    rewards = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 99.0]])
    mask = lengths_mask([3, 2], 3)
    result = estimate_advantages(rewards, torch.rand(2, 3), mask, gamma=1.0, gae_lambda=1.0)
    torch.testing.assert_close(result.returns, torch.tensor([[6.0, 5.0, 3.0], [9.0, 5.0, 0.0]]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 6), min_size=1, max_size=5), st.floats(0, 1), st.floats(0, 1))
def test_agrees_with_the_definition(seed, lengths, gamma, lam):
    generator = torch.Generator().manual_seed(seed)
    rewards, values = (torch.randn(len(lengths), 6, generator=generator) for _ in range(2))
    mask = lengths_mask(lengths, 6)
    expected = by_definition(rewards, values, mask, gamma, lam)
    result = estimate_advantages(rewards, values, mask, gamma, lam)
    torch.testing.assert_close(result.returns, (expected + values).masked_fill(~mask, 0.0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result.advantages, masked_whiten(expected, mask), rtol=1e-3, atol=1e-3)


def test_what_stands_under_the_mask_changes_nothing():
    rewards, values, mask = torch.randn(3, 5), torch.randn(3, 5), lengths_mask([5, 2, 3], 5)
    first = estimate_advantages(rewards, values, mask, 1.0, 0.95)
    second = estimate_advantages(rewards + 1e6 * ~mask, values - 1e6 * ~mask, mask, 1.0, 0.95)
    assert torch.equal(first.advantages, second.advantages)
    assert torch.equal(first.returns, second.returns)


def test_permuting_the_batch_permutes_the_result():
    rewards, values, mask = torch.randn(4, 5), torch.randn(4, 5), lengths_mask([5, 2, 3, 1], 5)
    order = torch.tensor([2, 0, 3, 1])
    whole = estimate_advantages(rewards, values, mask, 1.0, 0.95)
    permuted = estimate_advantages(rewards[order], values[order], mask[order], 1.0, 0.95)
    torch.testing.assert_close(permuted.advantages, whole.advantages[order])
    assert torch.equal(permuted.returns, whole.returns[order])

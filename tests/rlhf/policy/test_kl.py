import math

import pytest
import torch

from rlhf.policy.kl import kl_k1, kl_k3, response_kl, steer_kl_coef, token_rewards

LOGPROBS = torch.tensor([[math.log(0.5), math.log(0.2)]])
REF = torch.tensor([[math.log(0.25), math.log(0.4)]])


def test_estimators_by_hand():
    torch.testing.assert_close(kl_k1(LOGPROBS, REF), torch.tensor([[math.log(2), -math.log(2)]]))
    # k3 = r - 1 - log r with r = ref / policy: 0.5 - 1 + log 2 and 2 - 1 - log 2
    torch.testing.assert_close(kl_k3(LOGPROBS, REF), torch.tensor([[-0.5 + math.log(2), 1 - math.log(2)]]))


def test_both_estimators_average_to_the_kl_of_policy_to_reference():
    policy, ref = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.3])
    exact = (policy * (policy / ref).log()).sum()
    for estimator in (kl_k1, kl_k3):
        torch.testing.assert_close((policy * estimator(policy.log(), ref.log())).sum(), exact)


def test_k3_is_never_negative():
    assert kl_k3(torch.randn(1000), torch.randn(1000)).min() >= 0


def test_score_goes_to_the_last_token_and_the_penalty_to_every_one():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    kl = torch.tensor([[0.1, 0.2, 9.0], [0.3, 0.0, -0.1]])
    rewards = token_rewards(torch.tensor([1.0, -2.0]), kl, mask, kl_coef=0.5)
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 0.9, 0.0], [-0.15, 0.0, -1.95]]))


def test_response_kl_sums_the_kept_tokens():
    mask = torch.tensor([[True, False]])
    assert response_kl(torch.tensor([[0.25, 5.0]]), mask).tolist() == [0.25]


@pytest.mark.parametrize(("kl", "expected"), [(6.0, 0.1), (12.0, 0.1 * 1.2**1), (0.0, 0.1 * 0.8), (6.6, 0.1 * 1.1)])
def test_steering_follows_ziegler(kl, expected):
    # error = clip(kl / 6 - 1, -0.2, 0.2); a rollout as long as the horizon applies all of it
    steering = {"target": 6.0, "horizon": 256.0, "largest_error": 0.2}
    assert steer_kl_coef(0.1, kl, 256, **steering) == pytest.approx(expected)

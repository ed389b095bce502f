import torch

from rlhf.policy.masking import masked_mean, masked_sum, masked_whiten

VALUES = torch.tensor([[1.0, 2.0, 100.0], [3.0, -50.0, 7.0]])
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_mean_and_sum_see_only_what_is_kept():
    assert masked_mean(VALUES, MASK).item() == 2.0
    assert masked_sum(VALUES, MASK).tolist() == [3.0, 3.0]


def test_whitened_values_have_mean_0_and_variance_1():
    white = masked_whiten(VALUES, MASK)
    kept = white[MASK]
    torch.testing.assert_close(kept, torch.tensor([-(1.5**0.5), 0.0, 1.5**0.5]))
    assert white[~MASK].eq(0).all()


def test_what_is_masked_may_be_infinite_or_nan():
    values = VALUES.clone()
    values[~MASK] = torch.tensor([float("inf"), float("nan"), float("-inf")])
    assert masked_mean(values, MASK).item() == 2.0

import pytest
import torch

from rlhf.modeling.generation import sample, sampling_noise
from rlhf.modeling.kv_cache import PreallocatedCache

PROMPTS = [[21], [1, 6], [16, 25, 25], [21, 1, 1, 1], [1], [16, 25]]


def states(rows, columns, value):
    return torch.full((rows, 2, columns, 4), float(value))


def test_what_is_handed_out_ends_with_a_whole_block_that_is_masked():
    cache = PreallocatedCache(1, num_rows=3, num_columns=20)
    layer = cache.layers[0]
    assert layer.get_mask_sizes(5) == (5, 0)
    keys, _ = cache.update(states(3, 5, 1), states(3, 5, 1), 0)
    assert keys.shape == (3, 2, 5, 4)
    assert layer.get_mask_sizes(1) == (16, 0)
    keys, values = cache.update(states(3, 1, 2), states(3, 1, 3), 0)
    assert keys.shape == values.shape == (3, 2, 16, 4)
    assert (keys[0, 0, :, 0].tolist(), layer.get_seq_length()) == ([1.0] * 5 + [2.0] + [0.0] * 10, 6)
    assert keys.is_contiguous()
    for _ in range(11):
        keys, values = cache.update(states(3, 1, 4), states(3, 1, 5), 0)
    assert keys.shape == values.shape == (3, 2, 32, 4)
    assert keys[2, 1, :, 3].tolist() == [1.0] * 5 + [2.0] + [4.0] * 11 + [0.0] * 15
    assert values[1, 0, 4:8, 0].tolist() == [1.0, 3.0, 5.0, 5.0]


def test_the_longer_it_is_the_more_columns_are_laid_out_at_once():
    cache, widths = PreallocatedCache(1, num_rows=2, num_columns=1000), []
    cache.update(states(2, 7, 0), states(2, 7, 0), 0)
    for step in range(1, 994):
        expected, _ = cache.layers[0].get_mask_sizes(1)
        keys, values = cache.update(states(2, 1, step), states(2, 1, -step), 0)
        assert keys.shape == values.shape == (2, 2, expected, 4)
        widths.append(expected)
    assert (widths[0], widths[-1], len(set(widths))) == (16, 1008, 22)
    assert keys[1, 1, :, 0].tolist() == [0.0] * 7 + [float(step) for step in range(1, 994)] + [0.0] * 8
    assert torch.equal(values, -keys)


def test_under_autocast_it_keeps_what_products_read():
    cache = PreallocatedCache(1, num_rows=1, num_columns=20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cache.update(states(1, 2, 1), states(1, 2, 1), 0)
        keys, values = cache.update(states(1, 1, 1), states(1, 1, 1), 0)
    assert (keys.dtype, values.dtype) == (torch.bfloat16, torch.bfloat16)


def test_prompts_read_in_pieces_fill_their_own_rows():
    cache = PreallocatedCache(2, num_rows=5, num_columns=20)
    for number, rows in enumerate(cache.pieces(2)):
        for layer in range(2):
            shape = rows.stop - rows.start, 3
            keys, _ = cache.update(states(*shape, number + 1), states(*shape, number + 1), layer)
            assert keys.shape[0] == rows.stop - rows.start
    for layer in cache.layers:
        assert layer.keys[:, 0, 0, 0].tolist() == [1.0, 1.0, 2.0, 2.0, 3.0]
        assert layer.get_seq_length() == 3
    keys, _ = cache.update(states(5, 1, 9), states(5, 1, 9), 0)
    assert keys[:, 0, 3, 0].tolist() == [9.0] * 5


def test_rows_that_stay_keep_their_columns():
    cache = PreallocatedCache(1, num_rows=3, num_columns=20)
    cache.update(torch.arange(3.0).view(3, 1, 1, 1).expand(3, 2, 4, 4), states(3, 4, 1), 0)
    cache.batch_select_indices(torch.tensor([0, 2]))
    keys, _ = cache.update(states(2, 1, 7), states(2, 1, 7), 0)
    assert keys[:, 0, 0, 0].tolist() == [0.0, 2.0]
    assert keys[:, 0, 4, 0].tolist() == [7.0, 7.0]
    assert not keys[:, :, 5:].any()


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_prompts_read_in_pieces_are_answered_as_those_read_at_once(tiny_policy, tiny_tokenizer, tiny_setup, batch_size):
    noise = sampling_noise(0, [(row,) for row in range(len(PROMPTS))], 20)
    at_once = sample(tiny_policy, PROMPTS, noise, tiny_tokenizer, tiny_setup.compute, 1.0)
    assert sample(tiny_policy, PROMPTS, noise, tiny_tokenizer, tiny_setup.compute, 1.0, batch_size) == at_once

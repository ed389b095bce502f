import torch

from rlhf.sequences import batches_by_length, pad_sequences

BATCH = pad_sequences([[1, 2, 3], [4]], [[5], [6, 7]], pad_token_id=0)


def test_prompts_are_padded_left_and_responses_right():
    assert BATCH.input_ids.tolist() == [[1, 2, 3, 5, 0], [0, 0, 4, 6, 7]]
    assert BATCH.attention_mask.tolist() == [[True] * 4 + [False], [False, False, True, True, True]]
    assert BATCH.position_ids.tolist() == [[0, 1, 2, 3, 3], [0, 0, 0, 1, 2]]
    assert BATCH.response_mask.tolist() == [[True, False], [True, True]]
    assert BATCH.responses.tolist() == [[5, 0], [6, 7]]


def test_rows_are_trimmed_on_both_sides():
    first, second = BATCH.rows(torch.tensor([0])), BATCH.rows(torch.tensor([1]))
    assert first.input_ids.tolist() == [[1, 2, 3, 5]]
    assert second.input_ids.tolist() == [[4, 6, 7]]
    assert second.position_ids.tolist() == [[0, 1, 2]]
    assert second.response_mask.tolist() == [[True, True]]


def test_batches_hold_every_row_once_the_longest_first():
    assert list(batches_by_length([3, 9, 3, 5], 2)) == [[1, 3], [0, 2]]

import torch

from rlhf.modeling.batches import batches_by_length, pad_left, pad_sequences

BATCH = pad_sequences([[1, 2, 3], [4]], [[5], [6, 7]], pad_token_id=0)


def test_a_row_is_prompt_response_and_padding():
    assert BATCH.input_ids.tolist() == [[1, 2, 3, 5], [4, 6, 7, 0]]
    assert BATCH.attention_mask.tolist() == [[True] * 4, [True, True, True, False]]
    assert BATCH.response_mask.tolist() == [[True, False], [True, True]]
    assert BATCH.responses[BATCH.response_mask].tolist() == [5, 6, 7]
    assert BATCH.lengths.tolist() == [4, 3]


def test_hidden_states_are_picked_before_each_response_token():
    hidden = BATCH.context[..., None].float()
    assert BATCH.before_responses(hidden)[BATCH.response_mask].flatten().tolist() == [3, 4, 6]


def test_rows_are_trimmed():
    first, second = BATCH.rows(torch.tensor([0])), BATCH.rows(torch.tensor([1]))
    assert first.input_ids.tolist() == [[1, 2, 3, 5]]
    assert first.response_mask.tolist() == [[True]]
    assert second.input_ids.tolist() == [[4, 6, 7]]
    assert second.responses.tolist() == [[6, 7]]


def test_rows_to_be_continued_end_in_the_last_column():
    ids, mask = pad_left([[1, 2, 3], [4]], pad_token_id=0)
    assert ids.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert mask.tolist() == [[True] * 3, [False, False, True]]


def test_batches_hold_every_row_once_the_longest_first():
    assert list(batches_by_length([3, 9, 3, 5], 2)) == [[1, 3], [0, 2]]

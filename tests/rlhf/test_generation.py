import numpy as np
import pytest
import torch

from rlhf.generation import generate_responses, sample_tokens, sampling_noise


def test_noise_is_keyed_by_the_row_and_not_by_its_place():
    keys = [("a", 1), ("a", 2), ("b", 1)]
    noise = sampling_noise(0, keys, 5)
    assert np.array_equal(sampling_noise(0, keys[::-1], 5), noise[::-1])
    assert len(np.unique(noise)) == 15
    assert not np.array_equal(sampling_noise(1, keys, 5), noise)
    assert noise.min() >= 0
    assert noise.max() < 1


def test_noise_of_a_shorter_response_is_the_beginning_of_a_longer_one():
    assert np.array_equal(sampling_noise(0, [(1,)], 8)[:, :3], sampling_noise(0, [(1,)], 3))


def test_tokens_are_drawn_by_inverting_the_cumulative_distribution():
    logits = torch.tensor([0.2, 0.0, 0.5, 0.3]).log().expand(6, 4)
    uniform = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 1 - 2**-32], dtype=torch.float64)
    assert sample_tokens(logits, uniform).tolist() == [0, 0, 2, 2, 3, 3]


def test_draws_follow_the_distribution():
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4])
    uniform = torch.from_numpy(sampling_noise(0, [(row,) for row in range(20_000)], 1))[:, 0]
    counts = sample_tokens(probabilities.log().expand(20_000, 4), uniform).bincount(minlength=4)
    # Chi-squared with 3 degrees of freedom: 16.3 is passed once in a thousand.
    assert (((counts - 20_000 * probabilities) ** 2) / (20_000 * probabilities)).sum() < 16.3


@pytest.fixture
def prompts(tiny_tokenizer):
    rows = [[("What", "is", "7")[i % 3]] * (1 + i % 4) for i in range(12)]
    return [tiny_tokenizer(" ".join(row), add_special_tokens=False)["input_ids"] for row in rows]


def generate(policy, tokenizer, setup, prompts, batch_size=4, **settings):
    settings = {"max_response_tokens": 12, "temperature": 1.0, "seed": 3} | settings
    return generate_responses(policy, tokenizer, prompts, compute=setup.compute, batch_size=batch_size, **settings)


def test_batch_size_does_not_change_what_is_sampled(tiny_policy, tiny_tokenizer, tiny_setup, prompts):
    one = generate(tiny_policy, tiny_tokenizer, tiny_setup, prompts, batch_size=1)
    assert generate(tiny_policy, tiny_tokenizer, tiny_setup, prompts, batch_size=12) == one
    assert len({tuple(response) for response in one}) > 6


def test_responses_end_at_their_first_eos(tiny_policy, tiny_tokenizer, tiny_setup, prompts):
    eos = tiny_tokenizer.eos_token_id
    responses = generate(tiny_policy, tiny_tokenizer, tiny_setup, prompts * 4, max_response_tokens=30)
    assert any(response[-1] == eos for response in responses)
    assert any(len(response) == 30 for response in responses)
    assert all(eos not in response[:-1] for response in responses)


def test_cold_sampling_agrees_with_greedy_generation_of_transformers(tiny_policy, tiny_tokenizer, tiny_setup, prompts):
    ours = generate(tiny_policy, tiny_tokenizer, tiny_setup, prompts, temperature=1e-4)
    for prompt, response in zip(prompts, ours, strict=True):
        whole = tiny_policy.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=12, do_sample=False
        )
        assert response == whole[0, len(prompt) :].tolist()

import math

import numpy as np
import pytest
import torch

from rlhf.modeling import generation
from rlhf.modeling.generation import generate_responses, sample, sample_tokens, sampling_noise


def test_noise_is_keyed_by_the_row_and_not_by_its_place():
    keys = [("a", 1), ("a", 2), ("b", 1)]
    noise = sampling_noise(0, keys, 5)
    assert np.array_equal(sampling_noise(0, keys[::-1], 5), noise[::-1])
    assert len(np.unique(noise)) == 15
    assert not np.array_equal(sampling_noise(1, keys, 5), noise)


def test_noise_of_a_shorter_response_is_the_beginning_of_a_longer_one():
    assert np.array_equal(sampling_noise(0, [(1,)], 8)[:, :3], sampling_noise(0, [(1,)], 3))


class Edges:
    """A generator whose numbers are the least and the largest that there are, and those beside them."""

    numbers = (0.0, 2.0**-53, 1 - 2.0**-53, 1 - 2.0**-52)

    def random(self, size):
        return np.array(self.numbers[:size])


def test_noise_has_53_bits_and_is_neither_0_nor_1(monkeypatch):
    noise = sampling_noise(0, [("bits",)], 4096)[0]
    assert len(np.unique(noise)) == 4096
    # With 24 or 32 bits, as fp32 has, all of them would be multiples of 2^-33.
    assert np.count_nonzero(noise * 2.0**33 % 1) > 4090
    monkeypatch.setattr(np.random, "Generator", lambda bits: Edges())
    edges = sampling_noise(0, [("edges",)], 4)[0]
    assert edges.tolist() == [2.0**-54, 3 * 2.0**-54, 1 - 2.0**-53, 1 - 2.0**-52]


def test_noise_is_uniform():
    noise = sampling_noise(0, [(row,) for row in range(200)], 100).ravel()
    counts = np.bincount((noise * 20).astype(int), minlength=20)
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-squared, 19 degrees of freedom: once in a thousand


def test_the_tail_of_a_large_vocabulary_can_be_drawn():
    """150,000 tokens of 2e-9 each behind one of nearly 1: each is drawn by the numbers of its own share."""
    probabilities = torch.full((150_000,), 2e-9, dtype=torch.float64)
    probabilities[0] = 1 - probabilities[1:].sum()
    logits = probabilities.log().float().expand(3, -1)
    cumulative = logits[0].softmax(-1).double().cumsum(-1)
    cumulative /= cumulative[-1].clone()
    tail = torch.tensor([1, 77_777, 149_999])
    uniform = (cumulative[tail - 1] + cumulative[tail]) / 2
    assert sample_tokens(logits, uniform).tolist() == tail.tolist()
    # Both ends of that share of 0 to 1 are apart for numbers of 53 bits, and not for those of 24.
    assert torch.all((cumulative[tail] - cumulative[tail - 1]) * 2.0**53 > 1e7)
    assert torch.all((cumulative[tail] - cumulative[tail - 1]) * 2.0**24 < 1)


def test_an_unlikely_first_token_is_not_drawn_by_the_least_number():
    logits = torch.tensor([[-60.0, 0.0, 0.0], [-math.inf, 0.0, 0.0], [-math.log(2.0**52), 0.0, 0.0]])
    least = torch.tensor([2.0**-54] * 3, dtype=torch.float64)
    assert sample_tokens(logits, least).tolist() == [1, 1, 0]  # the third is drawn: it is in its share


def test_the_largest_number_draws_the_last_token_that_has_a_share():
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(256, 1000, generator=generator)
    largest = torch.full((256,), 1 - 2.0**-53, dtype=torch.float64)
    assert sample_tokens(logits, largest).max() <= 999
    logits[:, 990:] = -math.inf
    assert sample_tokens(logits, largest).max() <= 989


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


@pytest.mark.parametrize(
    ("prompts", "repeats"),
    [
        ([[5]] * 3, 3),
        ([[5], [5], [6], [6]], 2),
        ([[5], [5], [6]], 1),
        ([[5], [5], [6], [7]], 1),
        ([[5], [6], [6]], 1),
        ([[5], [5], [5], [6], [6]], 1),
        ([[5], [6]], 1),
    ],
)
def test_prompts_that_all_stand_as_often_in_a_row(prompts, repeats):
    assert generation._num_repeats(prompts) == repeats


def test_a_repeated_prompt_is_read_once_and_sampled_from_as_before(
    tiny_policy, tiny_tokenizer, tiny_setup, monkeypatch
):
    prompts = [ids for ids in ([5, 6, 7], [8], [5, 9]) for _ in range(4)]
    noise = sampling_noise(3, [(row,) for row in range(12)], 9)
    read = []
    forward = tiny_policy.forward
    monkeypatch.setattr(
        tiny_policy, "forward", lambda *args, **named: read.append(len(named["input_ids"])) or forward(*args, **named)
    )
    once = sample(tiny_policy, prompts, noise, tiny_tokenizer, tiny_setup.compute, 1.0, 2)
    assert read[:3] == [2, 1, 12]
    monkeypatch.setattr(generation, "_num_repeats", lambda _: 1)
    assert sample(tiny_policy, prompts, noise, tiny_tokenizer, tiny_setup.compute, 1.0, 2) == once
    assert len({tuple(response) for response in once}) > 6


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

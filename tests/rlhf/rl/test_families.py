"""Llama, GPT-2, Qwen and older shapes, built from a configuration: what holds for one model holds for the others."""

import numpy as np
import pytest
import torch
from families import ALL, FAMILIES, OWN_ATTENTION, save_base

from rlhf.modeling import kv_cache
from rlhf.modeling.generation import sample, sampling_noise
from rlhf.modeling.kv_cache import PreallocatedLayer, decoding_cache
from rlhf.modeling.logprobs import response_logprobs
from rlhf.modeling.models import load_policy

PROMPTS = [[6], [6, 7, 8, 9, 10], [11, 12]]


@pytest.fixture
def load_family(tiny_tokenizer, tiny_setup, tmp_path):
    """Loads a policy of a family, as PPO does."""

    def load(family, compute=tiny_setup.compute):
        return load_policy(save_base(family, tiny_tokenizer, tmp_path / family), compute)

    return load


def without_cache(policy, prompts, noise, eos, temperature):
    """One row at a time, the whole row again for every token."""
    rows = []
    for prompt, uniform in zip(prompts, noise, strict=True):
        response = []
        for number in uniform:
            with torch.no_grad():
                logits = policy(torch.tensor([[*prompt, *response]])).logits[0, -1].double() / temperature
            cumulative = logits.softmax(-1).cumsum(-1)
            response.append(int((cumulative <= number * cumulative[-1]).sum()))
            if response[-1] == eos:
                break
        rows.append(response)
    return rows


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_gives_the_tokens_of_a_model_without_a_cache(load_family, tiny_tokenizer, tiny_setup, family):
    policy = load_family(family)
    prompts = PROMPTS * 4
    noise = sampling_noise(0, [(row,) for row in range(len(prompts))], 12)
    assert all(isinstance(layer, PreallocatedLayer) for layer in decoding_cache(policy, 2, 20).layers)
    ours = sample(policy, prompts, noise, tiny_tokenizer, tiny_setup.compute, 0.9)
    assert ours == without_cache(policy, prompts, noise, tiny_tokenizer.eos_token_id, 0.9)


@pytest.mark.parametrize("family", OWN_ATTENTION)
def test_decoding_models_with_attention_of_their_own(load_family, tiny_tokenizer, tiny_setup, family, caplog):
    policy = load_family(family)
    kv_cache._log_once.cache_clear()
    prompts = PROMPTS * 4
    noise = sampling_noise(0, [(row,) for row in range(len(prompts))], 12)
    with caplog.at_level("INFO"):
        ours = sample(policy, prompts, noise, tiny_tokenizer, tiny_setup.compute, 0.9)
    assert "with the cache of transformers: " in caplog.text
    assert ours == without_cache(policy, prompts, noise, tiny_tokenizer.eos_token_id, 0.9)


@pytest.mark.parametrize("family", OWN_ATTENTION)
def test_bf16_leaves_their_attention_as_it_is(load_family, tiny_setup, family):
    """To bf16's rounding: without the cap on Gemma 2's scores, for one, they would be far apart."""
    rounded = tiny_setup.compute.model_copy(update={"dtype": "bf16"})
    rows = [[12, 13], [14, 15, 16, 5], [7]]
    whole, short = (
        response_logprobs(
            load_family(family, compute),
            compute,
            PROMPTS,
            rows,
            temperature=1,
            pad_token_id=0,
            batch_size=3,
        )
        for compute in (tiny_setup.compute, rounded)
    )
    for expected, found in zip(whole, short, strict=True):
        np.testing.assert_allclose(found, expected, atol=0.15)


@pytest.mark.parametrize("family", ALL)
def test_log_probabilities_are_those_of_single_rows(load_family, tiny_tokenizer, tiny_setup, family):
    policy = load_family(family)
    responses = [[12, 13], [14, 15, 16, 5], [7]]
    ours = response_logprobs(
        policy, tiny_setup.compute, PROMPTS, responses, temperature=0.7, pad_token_id=0, batch_size=3
    )
    for row, prompt, response in zip(ours, PROMPTS, responses, strict=True):
        with torch.no_grad():
            logprobs = (policy(torch.tensor([[*prompt, *response]])).logits[0] / 0.7).log_softmax(-1)
        expected = [float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(response)]
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-4)


def test_a_sliding_window_keeps_the_cache_of_its_model(load_family, tiny_tokenizer, tiny_setup, caplog):
    policy = load_family("mistral, sliding window")
    kv_cache._log_once.cache_clear()
    with caplog.at_level("INFO"):
        for _ in range(2):
            cache = decoding_cache(policy, 2, 20)
    assert not any(isinstance(layer, PreallocatedLayer) for layer in cache.layers)
    assert [record.message for record in caplog.records if "the cache of transformers" in record.message] == [
        "decoding mistral with the cache of transformers: not all of its layers keep whole keys and values"
    ]
    noise = sampling_noise(0, [(row,) for row in range(3)], 12)
    ours = sample(policy, PROMPTS, noise, tiny_tokenizer, tiny_setup.compute, 0.9)
    assert ours == without_cache(policy, PROMPTS, noise, tiny_tokenizer.eos_token_id, 0.9)

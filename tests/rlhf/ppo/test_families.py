"""Llama, GPT-2, Qwen and older shapes, built from a configuration: what holds for one model holds for the others."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from rlhf import kv_cache
from rlhf.config import ComputeConfig
from rlhf.generation import sample, sampling_noise
from rlhf.kv_cache import PreallocatedLayer, decoding_cache
from rlhf.logprobs import response_logprobs
from rlhf.models import load_policy, save_model

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = SHAPE | {"num_key_value_heads": 2, "tie_word_embeddings": False}
FAMILIES = {
    "llama": lambda **ids: LlamaConfig(**SHAPE, **ids),
    "llama, grouped heads": lambda **ids: LlamaConfig(**GROUPED, **ids),
    "gpt2": lambda **ids: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **ids),
    "qwen2, tied": lambda **ids: Qwen2Config(**(GROUPED | {"tie_word_embeddings": True}), **ids),
    "qwen3": lambda **ids: Qwen3Config(**GROUPED, head_dim=8, **ids),
}
# They make attention and masks of their own, or cap attention's scores: all that is fast here is not for them.
OWN_ATTENTION = {
    "gpt_neo": lambda **ids: GPTNeoConfig(
        hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=4, **ids
    ),
    "gptj": lambda **ids: GPTJConfig(n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64, **ids),
    "falcon": lambda **ids: FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **ids),
    "falcon, alibi": lambda **ids: FalconConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True, **ids
    ),
    "bloom": lambda **ids: BloomConfig(hidden_size=32, n_layer=2, n_head=4, **ids),
    "gemma2": lambda **ids: Gemma2Config(**GROUPED, head_dim=8, attn_logit_softcapping=0.5, **ids),
}
PROMPTS = [[6], [6, 7, 8, 9, 10], [11, 12]]


@pytest.fixture
def save_family(tiny_run, tiny_tokenizer):
    """Makes a tiny run whose three models are of one family."""

    def save(config_of, name="ppo"):
        run = tiny_run(name)
        ids = {f"{kind}_token_id": getattr(tiny_tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
        config = config_of(vocab_size=len(tiny_tokenizer), **ids)
        torch.manual_seed(0)
        policy = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(4.0)  # far from uniform, so that a wrong token would show
        save_model(policy, tiny_tokenizer, run.start / "policy")
        for model in ("reward_model", "selection_reward_model"):
            scorer = AutoModelForSequenceClassification.from_pretrained(run.start / "policy", num_labels=1)
            save_model(scorer, tiny_tokenizer, run.reward_models / model)
        return run

    return save


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
def test_decoding_gives_the_tokens_of_a_model_without_a_cache(save_family, tiny_tokenizer, tiny_setup, family):
    run = save_family(FAMILIES[family])
    policy = load_policy(run.start / "policy", tiny_setup.compute)
    prompts = PROMPTS * 4
    noise = sampling_noise(0, [(row,) for row in range(len(prompts))], 12)
    assert all(isinstance(layer, PreallocatedLayer) for layer in decoding_cache(policy, 2, 20).layers)
    ours = sample(policy, prompts, noise, tiny_tokenizer, tiny_setup.compute, 0.9)
    assert ours == without_cache(policy, prompts, noise, tiny_tokenizer.eos_token_id, 0.9)


@pytest.mark.parametrize("family", OWN_ATTENTION)
def test_decoding_models_with_attention_of_their_own(save_family, tiny_tokenizer, tiny_setup, family, caplog):
    run = save_family(OWN_ATTENTION[family])
    policy = load_policy(run.start / "policy", tiny_setup.compute)
    kv_cache._say_once.cache_clear()
    prompts = PROMPTS * 4
    noise = sampling_noise(0, [(row,) for row in range(len(prompts))], 12)
    with caplog.at_level("INFO"):
        ours = sample(policy, prompts, noise, tiny_tokenizer, tiny_setup.compute, 0.9)
    assert "with the cache of transformers: " in caplog.text
    assert ours == without_cache(policy, prompts, noise, tiny_tokenizer.eos_token_id, 0.9)


@pytest.mark.parametrize("family", OWN_ATTENTION)
def test_bf16_leaves_their_attention_as_it_is(save_family, tiny_setup, family):
    """To bf16's rounding: without the cap on Gemma 2's scores, for one, they would be far apart."""
    run = save_family(OWN_ATTENTION[family])
    rounded = tiny_setup.compute.model_copy(update={"dtype": "bf16"})
    rows = [[12, 13], [14, 15, 16, 5], [7]]
    whole, short = (
        response_logprobs(
            load_policy(run.start / "policy", compute),
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


@pytest.mark.parametrize("family", FAMILIES | OWN_ATTENTION)
def test_log_probabilities_are_those_of_single_rows(save_family, tiny_tokenizer, tiny_setup, family):
    run = save_family((FAMILIES | OWN_ATTENTION)[family])
    policy = load_policy(run.start / "policy", tiny_setup.compute)
    responses = [[12, 13], [14, 15, 16, 5], [7]]
    ours = response_logprobs(
        policy, tiny_setup.compute, PROMPTS, responses, temperature=0.7, pad_token_id=0, batch_size=3
    )
    for row, prompt, response in zip(ours, PROMPTS, responses, strict=True):
        with torch.no_grad():
            logprobs = (policy(torch.tensor([[*prompt, *response]])).logits[0] / 0.7).log_softmax(-1)
        expected = [float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(response)]
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("sharing", ["none", "trunk"])
@pytest.mark.parametrize("family", ["gpt2", "qwen2, tied", "qwen3", "gpt_neo", "bloom", "gemma2"])
def test_ppo_runs(save_family, family, sharing, dtype):
    run = save_family((FAMILIES | OWN_ATTENTION)[family])
    run.setup = run.setup.model_copy(update={"compute": ComputeConfig(dtype=dtype, num_threads=1)})
    output = run(num_updates=2, sharing=sharing)
    assert abs(run.curve("ppo/kl_mean")[1]) < (1e-4 if dtype == "fp32" else 0.05)
    AutoModelForCausalLM.from_pretrained(output / "policy")


def test_a_sliding_window_keeps_the_cache_of_its_model(save_family, tiny_tokenizer, tiny_setup, caplog):
    run = save_family(lambda **ids: MistralConfig(**GROUPED, sliding_window=4, **ids))
    policy = load_policy(run.start / "policy", tiny_setup.compute)
    kv_cache._say_once.cache_clear()
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

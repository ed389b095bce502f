"""Logits in fp32 in bf16's runs: for every family, in sampling, scoring and training, however large they are."""

import copy

import pytest
import torch
from families import ALL, WITHOUT_SCORE, save_base
from torch.nn.functional import linear

from rlhf.config.model import ComputeConfig, LoraConfig
from rlhf.modeling.batches import pad_sequences
from rlhf.modeling.device import cached_casts
from rlhf.modeling.generation import sample, sampling_noise
from rlhf.modeling.logprobs import response_logits, response_logprobs
from rlhf.modeling.lora import add_adapters, merged
from rlhf.modeling.models import freeze, load_policy
from rlhf.modeling.precision import autocast
from rlhf.modeling.tokenizer import load_tokenizer
from rlhf.rl.adapters import Role, load_backbone

FP32, BF16 = (ComputeConfig(dtype=dtype, num_threads=1) for dtype in ("fp32", "bf16"))
OFFSETS = (0.0, -30.0, -60.0, -100.0)
PROMPTS, RESPONSES = [[6, 7, 8], [9], [10, 11]], [[12, 13], [14, 15, 16, 5], [7]]


def watch_head(model):
    """What goes into a model's head and comes out of it, call by call."""
    calls = []
    model.get_output_embeddings().register_forward_hook(
        lambda head, inputs, output: calls.append((head, inputs[0].detach(), output.detach()))
    )
    return calls


def assert_in_fp32(calls):
    assert calls
    for head, hidden, logits in calls:
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, linear(hidden.float(), head.weight, head.bias), rtol=1e-6, atol=1e-5)


def sample_and_score(policy, tokenizer):
    with torch.no_grad():
        sample(policy, PROMPTS, sampling_noise(0, [(1,), (2,), (3,)], 4), tokenizer, BF16, 1.0)
        with cached_casts(BF16), autocast(BF16):
            logits = response_logits(policy, pad_sequences(PROMPTS, RESPONSES, 0))
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("family", ALL | WITHOUT_SCORE)
def test_every_family_samples_scores_and_learns_from_logits_in_fp32(family, tiny_tokenizer, tmp_path):
    folder = save_base(family, tiny_tokenizer, tmp_path)
    frozen = freeze(load_policy(folder, BF16), BF16)
    for policy in (load_policy(folder, BF16), frozen):
        calls = watch_head(policy)
        sample_and_score(policy, tiny_tokenizer)
        assert_in_fp32(calls)
    policy = load_policy(folder, BF16)
    calls = watch_head(policy)
    with cached_casts(BF16), autocast(BF16):
        logits = response_logits(policy, pad_sequences(PROMPTS, RESPONSES, 0))
    logits.square().sum().backward()
    assert_in_fp32(calls)
    assert policy.get_output_embeddings().weight.grad.dtype == torch.float32


def test_adapters_roles_and_copies_keep_it(tiny_setup, tiny_tokenizer, tmp_path):
    folder = save_base("llama, grouped heads", tiny_tokenizer, tmp_path)
    setup = tiny_setup.model_copy(update={"compute": BF16})
    backbone = load_backbone(folder, LoraConfig(rank=2), setup)
    with_adapters = add_adapters(load_policy(folder, BF16), LoraConfig(rank=2), "CAUSAL_LM")
    policies = [Role(backbone, name, backbone.causal_lm) for name in ("policy", None)]
    for policy in (*policies, with_adapters, merged(with_adapters), copy.deepcopy(with_adapters)):
        calls = watch_head(policy)
        sample_and_score(policy, tiny_tokenizer)
        assert_in_fp32(calls)


def test_fp32_runs_are_left_alone(tiny_tokenizer, tmp_path):
    head = load_policy(save_base("llama", tiny_tokenizer, tmp_path), FP32).get_output_embeddings()
    assert "forward" not in vars(head)  # too small for oneDNN


def with_offset(policy, offset):
    """Adds a number to all logits, which changes no distribution."""
    head = policy.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.full((len(head.weight),), offset))
    return policy


def in_bf16(policy):
    """The head as it would be computed by `autocast`."""
    head = policy.get_output_embeddings()
    head.forward = lambda hidden: torch.nn.Linear.forward(head, hidden)
    return policy


def errors(folder, pairs, change=lambda policy: policy):
    """Standard deviation of the log-probabilities' errors in bf16, nats per token, by offset."""

    def logprobs(compute, offset, change):
        policy = change(with_offset(load_policy(folder, compute), offset))
        prompts, responses = zip(*pairs, strict=True)
        rows = response_logprobs(policy, compute, prompts, responses, temperature=1.0, pad_token_id=0, batch_size=8)
        return torch.cat([torch.from_numpy(row) for row in rows]).double()

    exact = logprobs(FP32, 0.0, lambda policy: policy)
    return [float((logprobs(BF16, offset, change) - exact).std()) for offset in OFFSETS]


def test_an_offset_of_all_logits_costs_nothing(tiny_tokenizer, tmp_path):
    folder = save_base("llama, grouped heads", tiny_tokenizer, tmp_path)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(6, len(tiny_tokenizer), (16, 24), generator=generator).tolist()
    pairs = [(row[:4], row[4:]) for row in ids]
    found = errors(folder, pairs)
    assert found == pytest.approx([found[0]] * 4, rel=0.01)
    rounded = errors(folder, pairs, in_bf16)
    assert rounded[3] > 2 * rounded[0]  # as it would be otherwise
    assert rounded[3] > 2 * found[3]


def test_errors_on_a_pretrained_model(pretrained_model):
    """On these tokens 0.0242 with every offset; with a head in bf16 0.029, 0.034, 0.058 and 0.106."""
    folder = pretrained_model
    tokenizer = load_tokenizer(folder)
    policy = load_policy(folder, FP32)
    starts = ("Once upon a time", "One day", "Lily and Tom", "The big dog", "Mom said", "It was", "A little", "The sun")
    prompts = [tokenizer(text)["input_ids"] for text in starts] * 4
    noise = sampling_noise(0, [(row,) for row in range(len(prompts))], 48)
    responses = sample(policy, prompts, noise, tokenizer, FP32, 1.0)
    found, rounded = (errors(folder, list(zip(prompts, responses, strict=True)), how) for how in (lambda p: p, in_bf16))
    assert max(found) < 0.03
    assert found == pytest.approx([found[0]] * 4, rel=0.01)
    assert rounded[3] > 3 * found[3]

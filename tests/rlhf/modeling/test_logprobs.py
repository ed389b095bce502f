import numpy as np
import pytest
import torch

from rlhf.modeling import logprobs as module
from rlhf.modeling.batches import pad_sequences
from rlhf.modeling.logprobs import chosen_logprobs_and_entropy, response_logits, response_logprobs

PROMPTS = [[6, 7, 8], [9], [10, 11]]
RESPONSES = [[12, 13], [14, 15, 16, 5], [7]]


def by_row(policy, prompt, response, temperature):
    """Row by row, without padding or windows."""
    with torch.no_grad():
        logits = policy(torch.tensor([[*prompt, *response]])).logits[0] / temperature
    logprobs = logits.log_softmax(-1)
    return [logprobs[len(prompt) + i - 1, token].item() for i, token in enumerate(response)]


def test_padded_rows_have_the_log_probabilities_of_single_rows(tiny_policy, tiny_tokenizer, tiny_setup):
    ours = response_logprobs(
        tiny_policy, tiny_setup.compute, PROMPTS, RESPONSES, temperature=0.7, pad_token_id=0, batch_size=2
    )
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        np.testing.assert_allclose(ours[row], by_row(tiny_policy, prompt, response, 0.7), rtol=1e-4, atol=1e-5)


def test_only_the_responses_logits_are_computed(tiny_policy):
    batch = pad_sequences(PROMPTS, RESPONSES, pad_token_id=0)
    assert response_logits(tiny_policy, batch).shape == (3, 4, tiny_policy.config.vocab_size)


def test_entropy_and_chosen_by_hand():
    logits = torch.tensor([[[0.5, 0.25, 0.25]]]).log() + 3.0
    logprobs, entropy = chosen_logprobs_and_entropy(logits, torch.tensor([[1]]), 1.0)
    torch.testing.assert_close(entropy, torch.tensor([[1.5 * np.log(2)]], dtype=torch.float32))
    torch.testing.assert_close(logprobs, torch.tensor([[-2 * np.log(2)]]).float())


@pytest.mark.parametrize("chunk", [1, 2**20])
def test_values_and_gradients_are_those_of_log_softmax(monkeypatch, chunk):
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", chunk)
    generator = torch.Generator().manual_seed(0)
    logits, other = (torch.randn(3, 4, 7, generator=generator).requires_grad_() for _ in range(2))
    with torch.no_grad():
        other.copy_(logits)
    tokens = torch.randint(7, (3, 4), generator=generator)
    weights = torch.randn(2, 3, 4, generator=generator)
    ours = torch.stack(chosen_logprobs_and_entropy(logits, tokens, 0.7))
    normalized = (other / 0.7).log_softmax(-1)
    chosen = normalized.gather(-1, tokens[..., None]).squeeze(-1)
    theirs = torch.stack([chosen, -(normalized.exp() * normalized).sum(-1)])
    torch.testing.assert_close(ours, theirs)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(logits.grad, other.grad)


def test_bf16_logits_are_normalized_in_fp32():
    logits = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_()
    logprobs, _ = chosen_logprobs_and_entropy(logits, torch.zeros(2, 3, dtype=torch.long), 1.0)
    torch.testing.assert_close(logprobs, logits.float().log_softmax(-1)[..., 0])
    logprobs.sum().backward()
    assert logits.grad.dtype == torch.bfloat16

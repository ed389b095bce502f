import numpy as np
import torch

from rlhf.logprobs import chosen_logprobs, entropy, response_logits, response_logprobs
from rlhf.sequences import pad_sequences

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
    assert response_logits(tiny_policy, batch, 1.0).shape == (3, 4, tiny_policy.config.vocab_size)


def test_entropy_and_chosen_by_hand():
    logits = torch.tensor([[[0.5, 0.25, 0.25]]]).log() + 3.0
    torch.testing.assert_close(entropy(logits), torch.tensor([[1.5 * np.log(2)]], dtype=torch.float32))
    torch.testing.assert_close(chosen_logprobs(logits, torch.tensor([[1]])), torch.tensor([[-2 * np.log(2)]]).float())

import pytest
import torch

from rlhf.config import PPOConfig
from rlhf.models import load_policy, load_reward_model
from rlhf.ppo.kl import kl_k1
from rlhf.ppo.rollout import Models, collect_rollout, penalized_scores, rollout_prompts
from rlhf.ppo.value_model import start_value_model

CONFIG = PPOConfig(rollout_size=8, num_minibatches=2, max_response_tokens=10, missing_eos_penalty=3.0)


@pytest.fixture
def models(tiny_run, tiny_setup, tiny_tokenizer):
    run = tiny_run()
    compute = tiny_setup.compute
    ref = load_policy(run.start / "policy", compute)
    policy = load_policy(run.start / "policy", compute)
    with torch.no_grad():
        policy.lm_head.weight.mul_(1.2)
    reward_model = load_reward_model(run.reward_models / "reward_model", compute)
    value_model = start_value_model(load_reward_model(run.reward_models / "reward_model", compute))
    return Models(tiny_tokenizer, policy, ref, reward_model, reward_model, value_model)


PROMPTS = [[6], [6, 7], [6, 7, 8], [6, 7, 8, 9], [10, 11]]


def test_prompts_go_round_evenly():
    seen = [prompt for update in range(5) for prompt in rollout_prompts(0, update, 8, 10)]
    assert sorted(seen) == sorted(list(range(10)) * 4)
    assert sorted(seen[:10]) == list(range(10))
    assert seen[:10] != seen[10:20]
    assert rollout_prompts(1, 0, 8, 10) != rollout_prompts(0, 0, 8, 10)


def test_a_rollout_is_a_function_of_seed_and_update(models, tiny_setup):
    first = collect_rollout(CONFIG, tiny_setup, models, PROMPTS, update=3, kl_coef=0.1)
    second = collect_rollout(CONFIG, tiny_setup, models, PROMPTS, update=3, kl_coef=0.1)
    other = collect_rollout(CONFIG, tiny_setup, models, PROMPTS, update=4, kl_coef=0.1)
    assert torch.equal(first.batch.input_ids, second.batch.input_ids)
    assert torch.equal(first.advantages, second.advantages)
    assert not torch.equal(first.batch.input_ids, other.batch.input_ids)


def test_a_prompt_that_stands_twice_gets_two_responses(models, tiny_setup):
    rollout = collect_rollout(CONFIG, tiny_setup, models, [[6, 7]], update=0, kl_coef=0.1)
    assert len({tuple(row) for row in rollout.batch.responses.tolist()}) > 4


def test_the_parts_of_a_rollout_fit_together(models, tiny_setup, tiny_tokenizer):
    rollout = collect_rollout(CONFIG, tiny_setup, models, PROMPTS, update=0, kl_coef=0.1)
    mask = rollout.batch.response_mask
    torch.testing.assert_close(rollout.kl, kl_k1(rollout.old_logprobs, rollout.ref_logprobs))
    assert rollout.kl.abs().max() > 1e-3
    torch.testing.assert_close(rollout.rewards.sum(1), rollout.scores - 0.1 * rollout.kl.sum(1))
    for tensor in (rollout.old_logprobs, rollout.values, rollout.rewards, rollout.advantages, rollout.returns):
        assert tensor[~mask].eq(0).all()
    last = rollout.batch.responses.gather(1, mask.sum(1, keepdim=True) - 1).squeeze(1)
    assert torch.equal(rollout.ended, last == tiny_tokenizer.eos_token_id)


def test_micro_batches_change_nothing_but_the_rounding(models, tiny_setup):
    whole = collect_rollout(CONFIG, tiny_setup, models, PROMPTS, update=0, kl_coef=0.1)
    cut = collect_rollout(
        CONFIG.model_copy(update={"micro_batch_size": 1}), tiny_setup, models, PROMPTS, update=0, kl_coef=0.1
    )
    assert torch.equal(whole.batch.input_ids, cut.batch.input_ids)
    torch.testing.assert_close(whole.old_logprobs, cut.old_logprobs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.advantages, cut.advantages, rtol=1e-3, atol=1e-4)


def test_scores_are_clipped_first_and_penalized_then():
    scores, ended = torch.tensor([5.0, -5.0, 0.5]), torch.tensor([True, False, False])
    clipped = penalized_scores(scores, ended, CONFIG.model_copy(update={"score_clip": 2.0}))
    assert clipped.tolist() == [2.0, -5.0, -2.5]
    assert penalized_scores(scores, ended, CONFIG).tolist() == [5.0, -8.0, -2.5]

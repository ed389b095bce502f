import pytest
import torch

from rlhf.config.rl import RLConfig
from rlhf.modeling.generation import sampling_noise
from rlhf.policy.kl import kl_k1
from rlhf.rewards.sources import apply_penalties
from rlhf.rl.rollout import _noise_keys, collect_rollout, rollout_prompts
from rlhf.rl.update import run_update

CONFIG = RLConfig(rollout_size=8, num_minibatches=2, max_response_tokens=10, missing_eos_penalty=3.0)


@pytest.fixture
def collect(make_learner):
    """Collects a rollout of a policy that is a little off its reference."""

    def collect(prompts, update=0, **settings):
        learner = make_learner(CONFIG, prompts, **settings)
        with torch.no_grad():
            learner.models.policy.lm_head.weight.mul_(1.2)
        return collect_rollout(learner, update, 0.1, {})

    return collect


PROMPTS = [[6], [6, 7], [6, 7, 8], [6, 7, 8, 9], [10, 11]]


def test_prompts_go_round_evenly():
    seen = [prompt for update in range(5) for prompt in rollout_prompts(0, update, 8, 10)]
    assert sorted(seen) == sorted(list(range(10)) * 4)
    assert sorted(seen[:10]) == list(range(10))
    assert seen[:10] != seen[10:20]
    assert rollout_prompts(1, 0, 8, 10) != rollout_prompts(0, 0, 8, 10)


def test_a_rollout_is_a_function_of_seed_and_update(collect):
    first = collect(PROMPTS, update=3)
    second = collect(PROMPTS, update=3)
    other = collect(PROMPTS, update=4)
    assert torch.equal(first.batch.input_ids, second.batch.input_ids)
    assert torch.equal(first.advantages, second.advantages)
    assert not torch.equal(first.batch.input_ids, other.batch.input_ids)


def test_a_prompt_that_stands_twice_gets_two_responses(collect):
    rollout = collect([[6, 7]], update=0)
    assert len({tuple(row) for row in rollout.batch.responses.tolist()}) > 4


def test_the_parts_of_a_rollout_fit_together(collect, tiny_tokenizer):
    rollout = collect(PROMPTS, update=0)
    mask = rollout.batch.response_mask
    torch.testing.assert_close(rollout.kl, kl_k1(rollout.old_logprobs, rollout.ref_logprobs))
    assert rollout.kl.abs().max() > 1e-3
    torch.testing.assert_close(rollout.rewards.sum(1), rollout.scores - 0.1 * rollout.kl.sum(1))
    for tensor in (rollout.old_logprobs, rollout.values, rollout.rewards, rollout.advantages, rollout.returns):
        assert tensor[~mask].eq(0).all()
    last = rollout.batch.responses.gather(1, mask.sum(1, keepdim=True) - 1).squeeze(1)
    assert torch.equal(rollout.ended, last == tiny_tokenizer.eos_token_id)


def test_micro_batches_change_nothing_but_the_rounding(collect):
    whole = collect(PROMPTS, update=0)
    cut = collect(PROMPTS, update=0, micro_batch_size=1)
    assert torch.equal(whole.batch.input_ids, cut.batch.input_ids)
    torch.testing.assert_close(whole.old_logprobs, cut.old_logprobs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.advantages, cut.advantages, rtol=1e-3, atol=1e-4)


def test_the_temperature_is_that_of_sampling_and_of_every_log_probability(make_learner):
    """Against logits of single rows, without cache, padding or batch; then through training, whose checks act."""
    learner = make_learner(CONFIG, PROMPTS, temperature=0.5, kl_coef=0.0, num_critic_warmup_updates=0)
    models, eos = learner.models, learner.tokenizer.eos_token_id
    with torch.no_grad():
        models.ref_policy.lm_head.weight.mul_(1.5)
    rollout = collect_rollout(learner, 0, 0.1, {})
    chosen = rollout_prompts(0, 0, 8, len(PROMPTS))
    noise = sampling_noise(0, _noise_keys(0, chosen), CONFIG.max_response_tokens)
    for row, prompt in enumerate(chosen):
        response = rollout.batch.responses[row][rollout.batch.response_mask[row]].tolist()
        ids = torch.tensor([[*PROMPTS[prompt], *response]])
        with torch.no_grad():
            of_policy, of_reference = (
                (model(ids).logits[0, len(PROMPTS[prompt]) - 1 : -1].double() / 0.5).log_softmax(-1)
                for model in (models.policy, models.ref_policy)
            )
        cumulative = of_policy.exp().cumsum(-1)
        drawn = (cumulative <= torch.from_numpy(noise[row, : len(response)])[:, None]).sum(-1)
        assert drawn.tolist() == response
        assert len(response) == CONFIG.max_response_tokens or response[-1] == eos
        places = torch.tensor(response)[:, None]
        for ours, expected in ((rollout.old_logprobs, of_policy), (rollout.ref_logprobs, of_reference)):
            torch.testing.assert_close(ours[row, : len(response)].double(), expected.gather(1, places)[:, 0])
        entropy = -(of_policy.exp() * of_policy).sum(-1)
        torch.testing.assert_close(rollout.entropy[row, : len(response)].double(), entropy)
    same = make_learner(CONFIG, PROMPTS, temperature=0.5, num_critic_warmup_updates=0)
    assert run_update(same, 0, 0.1).metrics["policy/ratio_error"] < 1e-4


def test_several_responses_to_a_prompt_are_different_samples(collect):
    rollout = collect(PROMPTS, num_responses_per_prompt=4)
    ids, lengths = rollout.batch.input_ids.tolist(), rollout.batch.prompt_lengths.tolist()
    prompts = [row[:length] for row, length in zip(ids, lengths, strict=True)]
    assert prompts == [prompts[0]] * 4 + [prompts[4]] * 4
    assert prompts[0] != prompts[4]
    assert len({tuple(row) for row in rollout.batch.responses.tolist()}) == 8


def test_scores_are_clipped_first_and_penalized_then():
    scores, ended = torch.tensor([5.0, -5.0, 0.5]), torch.tensor([True, False, False])
    lengths = torch.tensor([4, 9, 7])
    clipped = apply_penalties(scores, ended, lengths, CONFIG.model_copy(update={"score_clip": 2.0}))
    assert clipped.tolist() == [2.0, -5.0, -2.5]
    assert apply_penalties(scores, ended, lengths, CONFIG).tolist() == [5.0, -8.0, -2.5]
    long = CONFIG.model_copy(update={"length_penalty": 0.5, "length_penalty_free_tokens": 6})
    assert apply_penalties(scores, ended, lengths, long).tolist() == [5.0, -9.5, -3.0]

"""The methods beside PPO: what a token is worth, by hand; and each of them on tiny models."""

import math

import pytest
import torch
from interrupted import contents, run_whole_and_broken

from rlhf.config.pipeline import PipelineConfig
from rlhf.config.rl import ROLLOUT_METHODS, RLConfig, rollout_error
from rlhf.errors import ConfigError
from rlhf.rl.advantages import best_against_worst, constant_groups, group_centred, group_standardized, leave_one_out
from rlhf.rl.algorithms import ALGORITHMS

GROUPED = [name for name, method in ROLLOUT_METHODS.items() if method.has_groups]
SMALL = {"num_responses_per_prompt": 4, "num_critic_warmup_updates": 2}
# Two prompts with two responses each, of 2, 1, 1 and 2 tokens; what stands behind an end must not count.
MASK = torch.tensor([[True, True], [True, False], [True, False], [True, True]])
REWARDS = torch.tensor([[0.5, 2.5], [1.0, 9.0], [-1.0, 9.0], [1.0, 2.0]])
RETURNS = [3.0, 1.0, -1.0, 3.0]


def each_token(values):
    return torch.tensor(values)[:, None].expand(MASK.shape).masked_fill(~MASK, 0.0)


def test_leave_one_out_is_a_return_less_the_mean_of_the_others():
    assert torch.equal(leave_one_out(REWARDS, MASK, 2), each_token([2.0, -2.0, -4.0, 4.0]))
    three = torch.tensor([[1.0], [2.0], [6.0]])
    mask = torch.ones(3, 1, dtype=torch.bool)
    assert leave_one_out(three, mask, 3).flatten().tolist() == [-3.0, -1.5, 4.5]


def test_group_centred_and_standardized():
    assert torch.equal(group_centred(REWARDS, MASK, 2), each_token([1.0, -1.0, -2.0, 2.0]))
    first, second = 1.0 / (math.sqrt(2) + 1e-4), 2.0 / (math.sqrt(8) + 1e-4)
    torch.testing.assert_close(group_standardized(REWARDS, MASK, 2), each_token([first, -first, -second, second]))


def test_a_group_of_one_score_teaches_nothing():
    same = torch.tensor([[1.0], [1.0]])
    mask = torch.ones(2, 1, dtype=torch.bool)
    for estimate in (leave_one_out, group_centred, group_standardized):
        assert not estimate(same, mask, 2).any()
    assert not best_against_worst(torch.ones(2), torch.randn(2, 1), mask, 2, 0.1).any()
    assert constant_groups(torch.tensor([1.0, 1.0, 1.0, 2.0]), 2) == 0.5


def test_weights_of_the_best_and_the_worst_have_the_gradient_of_dpo():
    torch.manual_seed(0)
    logprobs = torch.randn(6, 3, requires_grad=True)
    reference, mask = torch.randn(6, 3), torch.ones(6, 3, dtype=torch.bool)
    scores, beta = torch.tensor([0.1, 2.0, -1.0, 5.0, 4.0, 3.0]), 0.7
    ratios = (logprobs - reference).sum(1)
    loss = -sum(torch.nn.functional.logsigmoid(beta * (ratios[w] - ratios[b])) for w, b in ((1, 2), (3, 5)))
    (expected,) = torch.autograd.grad(loss, logprobs)
    weights = best_against_worst(scores, (logprobs - reference).detach(), mask, 3, beta)
    torch.testing.assert_close(-weights, expected)


def test_averages_by_hand():
    """Token losses of 1: two responses, of 3 tokens and of 1, where 5 are allowed."""
    mask = torch.tensor([[True, True, True], [True, False, False]])

    def average(name):
        averaging = ALGORITHMS[name].averaging
        weights = torch.ones(2) if averaging.row_weights is None else averaging.row_weights(mask)
        return float((mask * weights[:, None]).sum() / averaging.divisor(mask, 5))

    assert average("ppo") == 1.0
    assert average("grpo") == 1.0
    assert average("rloo") == average("online_dpo") == 2.0
    assert average("dr_grpo") == pytest.approx(0.4)


@pytest.mark.parametrize("method", GROUPED)
def test_a_method_raises_a_trivially_learnable_score(tiny_run, method):
    run = tiny_run()
    run(
        method=method,
        **SMALL | {"num_updates": 20, "rollout_size": 64, "evaluate_every": 10, "checkpoint_every": 10},
        learning_rate=3e-3,
        kl_coef=0.0,
        missing_eos_penalty=0.0,
    )
    eos_rate = run.curve("policy/eos_rate")
    assert eos_rate[1] < 0.5
    assert eos_rate[20] > 0.85
    assert run.curve("policy/kl_mean")[1] == 0.0
    assert run.curve("policy/ratio_error")[1] < 1e-4, "the policy learns from the first update on"
    assert not any("value" in name or "explained" in name for metrics, _ in run.logged for name in metrics)


@pytest.mark.parametrize("method", GROUPED)
def test_an_interrupted_run_goes_on_to_the_same_bits(tiny_run, method):
    settings = {"num_updates": 5, "checkpoint_every": 2, "learning_rate": 1e-3, "kl_coef": 0.3}
    whole, broken = run_whole_and_broken(tiny_run, 3, method=method, **SMALL | settings)
    for name in ("policy/kl_mean", "policy/score_mean", "policy/policy_loss", "policy/validation_objective"):
        assert broken.curve(name) == whole.curve(name)
    assert not list(whole.folder.rglob("value_*.safetensors"))


@pytest.mark.parametrize("method", GROUPED)
def test_micro_batches_do_not_change_what_is_learned(tiny_run, method):
    whole, cut = tiny_run("whole"), tiny_run("cut")
    settings = SMALL | {"method": method, "num_updates": 3, "learning_rate": 1e-3, "num_ppo_epochs": 1}
    whole(**settings)
    cut(**settings, micro_batch_size=2)
    for name in ("policy/policy_loss", "policy/policy_grad_norm", "policy/kl_mean", "policy/score_mean"):
        assert cut.curve(name) == pytest.approx(whole.curve(name), rel=1e-3, abs=1e-5)


def test_adapters_without_a_critic(tiny_run, tiny_tokenizer):
    """Policy and reward models are adapters; nothing is loaded for a value model."""
    run = tiny_run()
    first = run(method="rloo", **SMALL | {"num_updates": 2}, lora={"rank": 2}, learning_rate=1e-2)
    assert (first / "policy" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        (
            "rloo",
            {"num_critic_warmup_updates": 2},
            "RLOO compares responses to one prompt, but rl.num_responses_per_prompt is 1; set it",
        ),
        ("grpo", SMALL | {"rollout_size": 40, "num_minibatches": 4}, "would cut groups of 4 responses"),
        ("grpo", SMALL | {"gae_lambda": 0.9}, "rl.gae_lambda is set, but GRPO has no use for it"),
        ("dr_grpo", SMALL | {"sharing": "trunk"}, "rl.sharing: trunk is set, but Dr. GRPO has no use for it"),
        ("rloo", SMALL | {"alarms": {"value_clipping": 0.2}}, "rl.alarms.value_clipping is set, but RLOO"),
        ("online_dpo", SMALL | {"kl_in": "loss"}, "rl.kl_in is set, but online DPO has no use for it"),
        ("ppo", {"beta": 0.5}, "rl.beta is set, but PPO has no use for it"),
    ],
)
def test_what_a_method_cannot_use_is_refused(tiny_run, method, settings, words):
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        PipelineConfig(method=method, rl=RLConfig(**settings))
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        tiny_run()(method=method, **settings)


def test_every_default_but_the_group_size_is_a_setting_of_every_method():
    for method in ROLLOUT_METHODS:
        assert rollout_error(method, RLConfig(num_responses_per_prompt=4)) is None


def test_a_checkpoint_of_another_method_is_not_gone_on_from(tiny_run):
    run = tiny_run()
    run(method="rloo", **SMALL)
    before = contents(run.folder / "checkpoints")
    with pytest.raises(Exception, match="another configuration: method differ"):
        run(method="dr_grpo", **SMALL)
    assert contents(run.folder / "checkpoints") == before

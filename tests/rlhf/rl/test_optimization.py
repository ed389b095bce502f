import pytest
import torch

from rlhf.config.rl import RLConfig
from rlhf.rl import rollout as rollouts
from rlhf.rl.optimization import optimize, set_learning_rates
from rlhf.rl.rollout import collect_rollout

CONFIG = RLConfig(rollout_size=8, num_minibatches=4, num_ppo_epochs=3, max_response_tokens=6)


def run_update(learner, update):
    rollout = collect_rollout(learner, update, 0.1, {})
    return optimize(learner, rollout, update)


def copies(parameters):
    return [p.detach().clone() for p in parameters.values()]


def test_every_minibatch_is_an_optimizer_step(make_learner):
    learner = make_learner(CONFIG)
    assert len(run_update(learner, update=2)) == 12
    optimizers = learner.optimizers
    for optimizer in (optimizers.policy, optimizers.value):
        assert {int(state["step"]) for state in optimizer.state.values()} == {12}


@pytest.mark.parametrize("sharing", ["none", "trunk"])
def test_only_the_critic_learns_in_its_warm_up(make_learner, sharing):
    learner = make_learner(CONFIG, sharing=sharing)
    models, optimizers = learner.models, learner.optimizers
    policy, value = copies(models.policy_parameters), copies(models.value_parameters)
    statistics = run_update(learner, update=1)
    assert all(torch.equal(a, b) for a, b in zip(policy, models.policy_parameters.values(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(value, models.value_parameters.values(), strict=True))
    assert {int(state["step"]) for state in optimizers.policy.state.values()} == {0}
    assert "policy_loss" not in statistics[0]


def test_target_kl_ends_the_epochs(make_learner):
    assert len(run_update(make_learner(CONFIG, target_kl=1e-9, learning_rate=1e-2), update=2)) == 4


def test_gradients_are_clipped(make_learner):
    learner = make_learner(CONFIG, max_grad_norm=1e-12, num_ppo_epochs=1, value_learning_rate=1e-3)
    parameters = learner.models.value_parameters
    before = copies(parameters)
    run_update(learner, update=0)
    # A gradient far below AdamW's eps of 1e-5 moves nothing by more than lr * |g| / eps.
    moved = max(float((a - b).detach().abs().max()) for a, b in zip(before, parameters.values(), strict=True))
    assert moved < 1e-8


def test_learning_rates_decay_linearly(make_learner):
    learner = make_learner(CONFIG, num_updates=10)
    config, optimizers = learner.config, learner.optimizers
    assert [set_learning_rates(optimizers, config, update) for update in (0, 5, 9)] == pytest.approx([1.0, 0.5, 0.1])
    assert optimizers.policy.param_groups[0]["lr"] == pytest.approx(0.1 * config.learning_rate)
    assert optimizers.value.param_groups[0]["lr"] == pytest.approx(0.1 * config.value_learning_rate)
    constant = config.model_copy(update={"learning_rate_schedule": "constant"})
    assert set_learning_rates(optimizers, constant, 9) == 1.0


def test_an_entropy_bonus_raises_the_entropy(make_learner):
    # Whitened advantages average to 0, so a large bonus decides.
    learner = make_learner(CONFIG, entropy_coef=100.0, learning_rate=1e-3, num_ppo_epochs=8)
    with torch.no_grad():
        learner.models.policy.lm_head.weight.mul_(20.0)

    def entropy():
        rollout = collect_rollout(learner, 2, 0.1, {})
        return float(rollout.entropy.sum() / rollout.batch.response_mask.sum())

    before = entropy()
    run_update(learner, update=2)
    assert entropy() > before + 0.02


@pytest.mark.parametrize("method", ["rloo", "grpo", "dr_grpo"])
@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_one_pass_over_a_rollout_gives_what_two_give(make_learner, monkeypatch, method, kl_in):
    """Where a rollout has one optimizer step, the training pass tells the log-probabilities; the first one has two."""
    settings = {
        "num_minibatches": 1,
        "num_ppo_epochs": 1,
        "num_responses_per_prompt": 4,
        "micro_batch_size": 4,
        "kl_in": kl_in,
        "learning_rate": 1e-2,
    }
    config = RLConfig(rollout_size=8, max_response_tokens=6)
    found = []
    for once in (True, False):
        learner = make_learner(config, method=method, **settings)
        with torch.no_grad():
            for parameter in learner.models.policy_parameters.values():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        if not once:
            monkeypatch.setattr(rollouts, "_is_passed_once", lambda *_: False)
        rollout = collect_rollout(learner, 3, 0.5, {})
        assert (rollout.settle is not None) == once
        assert bool((rollout.old_logprobs != 0).any()) != once
        (statistics,) = optimize(learner, rollout, 3)
        found.append((rollout, statistics, copies(learner.models.policy_parameters)))
    (first, of_first, weights), (second, of_second, expected) = found
    for name in ("old_logprobs", "entropy", "kl", "rewards", "advantages"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=1e-4, atol=1e-5)
    assert of_first == pytest.approx(of_second, rel=1e-4, abs=1e-5)
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)
    assert collect_rollout(learner, 0, 0.5, {}).settle is None

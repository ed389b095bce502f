import pytest
import torch

from rlhf.config import PPOConfig
from rlhf.ppo.rollout import Models, collect_rollout
from rlhf.ppo.update import learn, make_optimizers, set_learning_rates

CONFIG = PPOConfig(rollout_size=8, num_minibatches=4, num_ppo_epochs=3, max_response_tokens=6)


@pytest.fixture
def models(tiny_run, tiny_setup, tiny_tokenizer):
    from rlhf.models import load_policy, load_reward_model
    from rlhf.ppo.value_model import start_value_model

    run = tiny_run()
    policy, ref = (load_policy(run.start / "policy", tiny_setup.compute) for _ in range(2))
    reward_model, owned = (load_reward_model(run.reward_models / "reward_model", tiny_setup.compute) for _ in range(2))
    return Models(tiny_tokenizer, policy, ref, reward_model, reward_model, start_value_model(owned))


def run_update(config, setup, models, update):
    optimizers = make_optimizers(config, models)
    rollout = collect_rollout(config, setup, models, [[6], [6, 7]], update, kl_coef=0.1)
    return learn(config, setup, models, optimizers, rollout, update), optimizers


def test_every_minibatch_is_an_optimizer_step(models, tiny_setup):
    statistics, optimizers = run_update(CONFIG, tiny_setup, models, update=2)
    assert len(statistics) == 12
    for optimizer in (optimizers.policy, optimizers.value):
        assert {int(state["step"]) for state in optimizer.state.values()} == {12}


def test_only_the_critic_learns_in_its_warm_up(models, tiny_setup):
    before = [p.clone() for p in models.policy.parameters()]
    _, optimizers = run_update(CONFIG, tiny_setup, models, update=1)
    assert all(torch.equal(a, b) for a, b in zip(before, models.policy.parameters(), strict=True))
    assert not optimizers.policy.state
    assert optimizers.value.state


def test_target_kl_ends_the_epochs(models, tiny_setup):
    config = CONFIG.model_copy(update={"target_kl": 1e-9, "learning_rate": 1e-2})
    statistics, _ = run_update(config, tiny_setup, models, update=2)
    assert len(statistics) == 4


def test_gradients_are_clipped(models, tiny_setup):
    before = [p.clone() for p in models.value_model.parameters()]
    config = CONFIG.model_copy(update={"max_grad_norm": 1e-12, "num_ppo_epochs": 1, "value_learning_rate": 1e-3})
    run_update(config, tiny_setup, models, update=0)
    # A gradient far below AdamW's eps of 1e-5 moves nothing by more than lr * |g| / eps.
    moved = max(
        float((a - b).detach().abs().max()) for a, b in zip(before, models.value_model.parameters(), strict=True)
    )
    assert moved < 1e-8


def test_learning_rates_decay_linearly(models):
    config = CONFIG.model_copy(update={"num_updates": 10})
    optimizers = make_optimizers(config, models)
    assert [set_learning_rates(optimizers, config, update) for update in (0, 5, 9)] == pytest.approx([1.0, 0.5, 0.1])
    assert optimizers.policy.param_groups[0]["lr"] == pytest.approx(0.1 * config.learning_rate)
    assert optimizers.value.param_groups[0]["lr"] == pytest.approx(0.1 * config.value_learning_rate)
    constant = config.model_copy(update={"learning_rate_schedule": "constant"})
    assert set_learning_rates(optimizers, constant, 9) == 1.0


def test_an_entropy_bonus_raises_the_entropy(models, tiny_setup):
    # Whitened advantages average to 0, so a large bonus decides.
    config = CONFIG.model_copy(update={"entropy_coef": 100.0, "learning_rate": 1e-3, "num_ppo_epochs": 8})
    with torch.no_grad():
        models.policy.lm_head.weight.mul_(20.0)
    statistics, _ = run_update(config, tiny_setup, models, update=2)
    assert statistics[-1].values["entropy"] > statistics[0].values["entropy"] + 0.02

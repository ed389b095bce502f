import json

import pytest
import torch

from rlhf.config import PPOConfig
from rlhf.errors import ArtifactMismatchError
from rlhf.models import load_policy, load_reward_model
from rlhf.ppo.checkpoint import TrainerState, latest_checkpoint, load_checkpoint, save_checkpoint
from rlhf.ppo.rollout import Models
from rlhf.ppo.update import make_optimizers
from rlhf.ppo.value_model import start_value_model


@pytest.fixture
def make_models(tiny_run, tiny_setup, tiny_tokenizer):
    run = tiny_run()

    def make():
        policy = load_policy(run.start / "policy", tiny_setup.compute)
        value_model = start_value_model(load_reward_model(run.reward_models / "reward_model", tiny_setup.compute))
        return Models(tiny_tokenizer, policy, None, None, None, value_model)

    return make


def take_a_step(models, optimizers):
    for model, optimizer in ((models.policy, optimizers.policy), (models.value_model, optimizers.value)):
        sum(parameter.square().sum() for parameter in model.parameters()).backward()
        optimizer.step()
        optimizer.zero_grad()


def weights(models):
    return [p.detach().clone() for m in (models.policy, models.value_model) for p in m.parameters()]


def test_a_loaded_checkpoint_goes_on_to_the_same_bits(tmp_path, make_models):
    models = make_models()
    optimizers = make_optimizers(PPOConfig(), models)
    take_a_step(models, optimizers)
    save_checkpoint(tmp_path, TrainerState(3, 0.2, [{"update": 0}]), models, optimizers)
    take_a_step(models, optimizers)
    others = make_models()
    other_optimizers = make_optimizers(PPOConfig(), others)
    state = load_checkpoint(tmp_path / "update_000003", others, other_optimizers)
    take_a_step(others, other_optimizers)
    assert state == TrainerState(3, 0.2, [{"update": 0}])
    assert all(torch.equal(a, b) for a, b in zip(weights(models), weights(others), strict=True))


def test_only_the_newest_two_are_kept_and_a_partial_one_is_none(tmp_path, make_models):
    models = make_models()
    optimizers = make_optimizers(PPOConfig(), models)
    assert latest_checkpoint(tmp_path) is None
    for update in range(1, 4):
        save_checkpoint(tmp_path, TrainerState(update, 0.1, []), models, optimizers)
    (tmp_path / "update_000009.partial").mkdir()
    assert latest_checkpoint(tmp_path) == tmp_path / "update_000003"
    assert sorted(p.name for p in tmp_path.glob("update_??????")) == ["update_000002", "update_000003"]


@pytest.mark.parametrize("name", ["policy.safetensors", "value_optimizer.safetensors"])
def test_an_altered_or_truncated_checkpoint_is_refused(tmp_path, make_models, name):
    models = make_models()
    optimizers = make_optimizers(PPOConfig(), models)
    take_a_step(models, optimizers)
    path = save_checkpoint(tmp_path, TrainerState(1, 0.1, []), models, optimizers)
    content = bytearray((path / name).read_bytes())
    content[-1] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(ArtifactMismatchError, match=f"{name} is missing or is not what was written"):
        load_checkpoint(path, models, optimizers)
    (path / name).unlink()
    with pytest.raises(ArtifactMismatchError, match=name):
        load_checkpoint(path, models, optimizers)


def test_a_checkpoint_that_fails_leaves_the_previous_one(tmp_path, make_models, monkeypatch):
    from rlhf.ppo import checkpoint

    models = make_models()
    optimizers = make_optimizers(PPOConfig(), models)
    save_checkpoint(tmp_path, TrainerState(1, 0.1, []), models, optimizers)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", no_space)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, TrainerState(2, 0.1, []), models, optimizers)
    assert latest_checkpoint(tmp_path) == tmp_path / "update_000001"
    assert json.loads((tmp_path / "update_000001" / "state.json").read_text())["state"]["next_update"] == 1

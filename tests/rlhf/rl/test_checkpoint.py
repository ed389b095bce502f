import json
import math

import pytest
import torch

from rlhf.config.rl import RLConfig
from rlhf.errors import ArtifactMismatchError
from rlhf.modeling.context import StageContext
from rlhf.rl.checkpoint import CheckpointError, TrainerState, latest_checkpoint, load_checkpoint, save_checkpoint
from rlhf.rl.context import make_optimizers
from rlhf.rl.models import load_models

SETTINGS = {"kl_coef": 0.1, "seed": 0}


@pytest.fixture
def make_models(tiny_run, tiny_setup, tiny_tokenizer):
    run = tiny_run()
    return lambda: load_models(StageContext(RLConfig(), tiny_setup, tiny_tokenizer), run.start, run.reward_models)


def take_a_step(models, optimizers):
    learned = ((models.policy_parameters, optimizers.policy), (models.value_parameters, optimizers.value))
    for parameters, optimizer in learned:
        sum(parameter.square().sum() for parameter in parameters.values()).backward()
        optimizer.step()
        optimizer.zero_grad()


def weights(models):
    learned = (models.policy_parameters, models.value_parameters)
    return [p.detach().clone() for parameters in learned for p in parameters.values()]


def test_a_loaded_checkpoint_goes_on_to_the_same_bits(tmp_path, make_models):
    models = make_models()
    optimizers = make_optimizers(RLConfig(), models)
    take_a_step(models, optimizers)
    save_checkpoint(
        tmp_path, TrainerState(next_update=3, kl_coef=0.2, evaluations=[{"update": 0}]), models, optimizers, SETTINGS
    )
    take_a_step(models, optimizers)
    others = make_models()
    other_optimizers = make_optimizers(RLConfig(), others)
    state = load_checkpoint(tmp_path / "update_000003", others, other_optimizers, SETTINGS)
    take_a_step(others, other_optimizers)
    assert state == TrainerState(next_update=3, kl_coef=0.2, evaluations=[{"update": 0}])
    assert all(torch.equal(a, b) for a, b in zip(weights(models), weights(others), strict=True))


def test_only_the_newest_two_are_kept_and_a_partial_one_is_none(tmp_path, make_models):
    models = make_models()
    optimizers = make_optimizers(RLConfig(), models)
    assert latest_checkpoint(tmp_path) is None
    for update in range(1, 4):
        save_checkpoint(
            tmp_path, TrainerState(next_update=update, kl_coef=0.1, evaluations=[]), models, optimizers, SETTINGS
        )
    (tmp_path / "update_000009.partial").mkdir()
    assert latest_checkpoint(tmp_path) == tmp_path / "update_000003"
    assert sorted(p.name for p in tmp_path.glob("update_??????")) == ["update_000002", "update_000003"]


@pytest.mark.parametrize("name", ["policy.safetensors", "value_optimizer.safetensors"])
def test_an_altered_or_truncated_checkpoint_is_refused(tmp_path, make_models, name):
    models = make_models()
    optimizers = make_optimizers(RLConfig(), models)
    take_a_step(models, optimizers)
    path = save_checkpoint(
        tmp_path, TrainerState(next_update=1, kl_coef=0.1, evaluations=[]), models, optimizers, SETTINGS
    )
    content = bytearray((path / name).read_bytes())
    content[-1] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(ArtifactMismatchError, match=f"{name} is missing or is not what was written"):
        load_checkpoint(path, models, optimizers, SETTINGS)
    (path / name).unlink()
    with pytest.raises(ArtifactMismatchError, match=name):
        load_checkpoint(path, models, optimizers, SETTINGS)


def test_a_checkpoint_that_fails_leaves_the_previous_one(tmp_path, make_models, monkeypatch):
    from rlhf.rl import checkpoint

    models = make_models()
    optimizers = make_optimizers(RLConfig(), models)
    save_checkpoint(tmp_path, TrainerState(next_update=1, kl_coef=0.1, evaluations=[]), models, optimizers, SETTINGS)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", no_space)
    with pytest.raises(CheckpointError, match=r"No space left.*update_000001 is as it was.*Make room"):
        save_checkpoint(
            tmp_path, TrainerState(next_update=2, kl_coef=0.1, evaluations=[]), models, optimizers, SETTINGS
        )
    assert latest_checkpoint(tmp_path) == tmp_path / "update_000001"
    assert json.loads((tmp_path / "update_000001" / "state.json").read_text())["state"]["next_update"] == 1
    assert not list(tmp_path.glob("*.partial"))


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path, make_models):
    models = make_models()
    optimizers = make_optimizers(RLConfig(), models)
    path = save_checkpoint(
        tmp_path, TrainerState(next_update=1, kl_coef=0.1, evaluations=[]), models, optimizers, SETTINGS
    )
    with pytest.raises(CheckpointError, match=r"another configuration: kl_coef differ \(kl_coef was 0.1 and is 0.2\)"):
        load_checkpoint(path, models, optimizers, SETTINGS | {"kl_coef": 0.2})


@pytest.mark.parametrize(
    "alter",
    [
        lambda words: words["state"].update(kl_coef=0.7),
        lambda words: words["settings"].update(seed=1),
        lambda words: words["sha256"].pop("policy.safetensors"),
    ],
)
def test_an_altered_state_is_refused(tmp_path, make_models, alter):
    models = make_models()
    optimizers = make_optimizers(RLConfig(), models)
    state = TrainerState(
        next_update=1,
        kl_coef=0.1,
        evaluations=[],
        logged=[[1, {"policy/explained_variance": math.nan, "policy/kl_mean": 1e-7}]],
    )
    path = save_checkpoint(tmp_path, state, models, optimizers, SETTINGS)
    assert load_checkpoint(path, models, optimizers, SETTINGS).kl_coef == 0.1
    words = json.loads((path / "state.json").read_text())
    alter(words)
    (path / "state.json").write_text(json.dumps(words))
    with pytest.raises(ArtifactMismatchError, match=r"state\.json is missing or is not what was written"):
        load_checkpoint(path, models, optimizers, SETTINGS)


@pytest.mark.parametrize("words", ["[]", "{}", "3", '{"own_sha256": ""}'])
def test_what_is_no_state_at_all_is_refused(tmp_path, make_models, words):
    models = make_models()
    optimizers = make_optimizers(RLConfig(), models)
    path = save_checkpoint(
        tmp_path, TrainerState(next_update=1, kl_coef=0.1, evaluations=[]), models, optimizers, SETTINGS
    )
    (path / "state.json").write_text(words)
    with pytest.raises(ArtifactMismatchError, match=r"state\.json .*remove .* and start again"):
        load_checkpoint(path, models, optimizers, SETTINGS)


def test_a_truncated_state_is_refused(tmp_path, make_models):
    models = make_models()
    optimizers = make_optimizers(RLConfig(), models)
    path = save_checkpoint(
        tmp_path, TrainerState(next_update=1, kl_coef=0.1, evaluations=[]), models, optimizers, SETTINGS
    )
    state = path / "state.json"
    state.write_text(state.read_text()[:-10])
    with pytest.raises(ArtifactMismatchError, match=r"state\.json cannot be read"):
        load_checkpoint(path, models, optimizers, SETTINGS)

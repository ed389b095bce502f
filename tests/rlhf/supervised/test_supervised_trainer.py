import pytest
import torch

from rlhf.config.model import ArchitectureConfig, ComputeConfig, ModelConfig, Setup
from rlhf.config.supervised import SFTConfig
from rlhf.errors import TrainingDivergedError
from rlhf.files.manifest import write_manifest
from rlhf.modeling.context import StageContext
from rlhf.supervised.trainer import (
    newest_checkpoint,
    refuse_divergence,
    refuse_divergent_weights,
    trainer_settings,
    training_order,
)


@pytest.fixture
def checkpoints(tmp_path):
    for step in (90, 100, 110):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(range(step)))
        (folder / "optimizer.pt").write_bytes(b"moments")
        write_manifest(folder)
    return tmp_path


def test_order_is_a_permutation_an_epoch():
    order = training_order([5] * 10, num_epochs=3, batch_size=5, seed=0)
    epochs = [order[:10], order[10:20], order[20:]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_order_depends_on_the_seed_alone():
    lengths = [7, 3, 9, 4] * 8
    assert training_order(lengths, 2, 4, seed=1) == training_order(lengths, 2, 4, seed=1)
    assert training_order(lengths, 2, 4, seed=1) != training_order(lengths, 2, 4, seed=2)


def test_order_ends_in_the_middle_of_an_epoch():
    order = training_order([1] * 10, num_epochs=1.5, batch_size=4, seed=0)
    assert len(order) == 15
    assert sorted(order[:10]) == list(range(10)) or len(set(order[:10])) == 10
    assert max(order.count(row) for row in range(10)) == 2


def test_order_has_a_row_at_least():
    assert len(training_order([1, 1], num_epochs=0.01, batch_size=4, seed=0)) == 1


def test_rows_of_a_batch_stand_by_length_and_batches_are_those_of_unsorted_rows():
    lengths = [3, 1, 2, 9, 8, 7, 6, 5]
    sorted_within = training_order(lengths, 1, 4, seed=3)
    drawn = training_order([1] * 8, 1, 4, seed=3)
    for start in (0, 4):
        batch = sorted_within[start : start + 4]
        assert [lengths[row] for row in batch] == sorted(lengths[row] for row in batch)
        assert set(batch) == set(drawn[start : start + 4])


def test_settings_follow_the_configuration(tmp_path):
    setup = Setup(seed=0, model=ModelConfig(architecture=ArchitectureConfig()), compute=ComputeConfig())
    config = SFTConfig(batch_size=32, micro_batch_size=8, warmup_fraction=0.1, max_grad_norm=0.5)
    settings = trainer_settings(StageContext(config, setup, None), tmp_path, num_rows=3201, seed=2**62)
    assert settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"] == 32
    assert settings["warmup_steps"] == 10
    assert settings["max_grad_norm"] == 0.5
    assert settings["bf16"] is True
    assert settings["use_cpu"] is True
    assert settings["seed"] < 2**32
    assert settings["logging_steps"] == 10
    assert trainer_settings(StageContext(config, setup, None), tmp_path, num_rows=32, seed=0)["logging_steps"] == 1


def test_newest_checkpoint_counts_steps_and_not_letters(checkpoints):
    assert newest_checkpoint(checkpoints).name == "checkpoint-110"


def test_no_checkpoint(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "nowhere") is None


def _truncate(folder):
    (folder / "model.safetensors").write_bytes(b"\x00")


def _flip(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[50] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(content))


def _lose_a_file(folder):
    (folder / "optimizer.pt").unlink()


def _never_sealed(folder):
    (folder / "manifest.sha256").unlink()


@pytest.mark.parametrize("harm", [_truncate, _flip, _lose_a_file, _never_sealed])
def test_torn_checkpoint_is_passed_over_and_removed(checkpoints, harm):
    harm(checkpoints / "checkpoint-110")
    assert newest_checkpoint(checkpoints).name == "checkpoint-100"
    assert not (checkpoints / "checkpoint-110").exists()
    assert (checkpoints / "checkpoint-90").exists()


def test_all_checkpoints_torn(checkpoints):
    for folder in checkpoints.iterdir():
        _never_sealed(folder)
    assert newest_checkpoint(checkpoints) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), torch.tensor(float("nan"))])
def test_divergence_names_step_and_last_good_checkpoint(checkpoints, value):
    with pytest.raises(TrainingDivergedError, match=r"step 7: the loss is .*checkpoint-110") as caught:
        refuse_divergence(value, "the loss", 7, checkpoints)
    assert caught.value.step == 7
    assert caught.value.checkpoint == str(checkpoints / "checkpoint-110")


def test_divergence_without_checkpoint(tmp_path):
    with pytest.raises(TrainingDivergedError, match="no checkpoint had been written yet"):
        refuse_divergence(float("nan"), "the loss", 1, tmp_path)


def test_finite_number_is_no_divergence(tmp_path):
    refuse_divergence(1e30, "the loss", 1, tmp_path)


def test_divergent_weight_is_named(tmp_path):
    layer = torch.nn.Linear(2, 2)
    refuse_divergent_weights(layer, 3, tmp_path)
    layer.bias.data[1] = float("inf")
    with pytest.raises(TrainingDivergedError, match="step 3: the sum of bias is inf"):
        refuse_divergent_weights(layer, 3, tmp_path)

"""A model is refused at the start where transformers would have filled it up, and only there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from model_families import FAMILIES
from safetensors.torch import load_file, save_file

from rlhf.config.model import ModelConfig
from rlhf.config.policy import RewardSourceConfig
from rlhf.errors import ModelError
from rlhf.modeling.checks import check_model
from rlhf.modeling.models import load_policy, load_reward_model
from rlhf.modeling.run_models import check_models

ROLES = ("policy", "reward_model")


def change_weights(folder, change):
    """Save the weights of a model in one file again, changed."""
    weights = change(load_file(folder / "model.safetensors"))
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sound_model_passes(save_family, family, role, caplog):
    check_model(save_family(family, role), role)
    assert caplog.records == []


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_so_does_one_in_several_files_of_another_precision(save_family, role, dtype):
    folder = save_family("llama", role, dtype, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    check_model(folder, role)


def test_so_does_one_whose_names_are_of_an_old_version(save_family):
    folder = save_family("gpt2")
    change_weights(folder, lambda weights: {k.removeprefix("transformer."): v for k, v in weights.items()})
    assert "h.0.ln_1.weight" in load_file(folder / "model.safetensors")
    check_model(folder, "policy")


def test_so_does_one_with_buffers_that_are_made_anew(save_family):
    folder = save_family("gpt2")
    buffers = {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.uint8) for layer in (0, 1)}
    change_weights(folder, lambda weights: weights | buffers)
    check_model(folder, "policy")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_weight_that_is_missing_is_named(save_family, tiny_setup, family, role):
    """Also by the load itself, which knows nothing of the check."""
    folder = save_family(family, role)
    whole = load_file(folder / "model.safetensors")
    load = load_policy if role == "policy" else load_reward_model
    for number, name in enumerate(whole):
        save_file({key: weight for key, weight in whole.items() if key != name}, folder / "model.safetensors")
        with pytest.raises(
            ModelError, match=r"that config\.json asks for|score\.weight|experts.* (should be|may be missing)"
        ) as refused:
            check_model(folder, role)
        # transformers has other names for Mixtral's, and merges the experts.
        if "experts" not in name or "may be missing" in str(refused.value):
            assert name in str(refused.value) or name.replace("block_sparse_moe", "mlp") in str(refused.value)
        if number < 3:
            with pytest.raises(
                ModelError, match=r"that config\.json asks for|score\.weight|should be|cannot be loaded"
            ):
                load(folder, tiny_setup.compute)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2, tied"])
def test_weights_of_another_shape(save_family, tiny_setup, family):
    folder = save_family(family)
    change_weights(folder, lambda weights: {k: v[:-1] if v.dim() > 1 else v for k, v in weights.items()})
    with pytest.raises(
        ModelError, match=r"is \(\d+, \d+\) and should be \(\d+, \d+\); .*and \d+ more; give the config"
    ):
        check_model(folder, "policy")
    with pytest.raises(ModelError, match=r"is \(\d+, \d+\) and should be \(\d+, \d+\)"):
        load_policy(folder, tiny_setup.compute)


def test_layers_that_config_does_not_have(save_family, tiny_setup):
    folder = save_family("llama")
    edit(folder / "config.json", num_hidden_layers=1)
    with pytest.raises(
        ModelError, match=r"9 weights \(model.layers.1.*, and 5 more\) that config.json has no place for"
    ):
        check_model(folder, "policy")
    with pytest.raises(ModelError, match="no place for"):
        load_policy(folder, tiny_setup.compute)


def test_layers_that_the_files_do_not_have(save_family):
    folder = save_family("llama", max_shard_size="20KB")
    edit(folder / "config.json", num_hidden_layers=12)
    with pytest.raises(ModelError, match=r"90 weights \(model.layers.2.*, and 86 more\) that config.json asks for are"):
        check_model(folder, "policy")


def test_a_language_model_is_no_reward_model(save_family, tiny_setup):
    folder = save_family("llama")
    with pytest.raises(ModelError, match=r"\(score.weight\) are missing, so this is a language model"):
        check_model(folder, "reward_model")
    with pytest.raises(ModelError, match=r"\(score.weight\) are missing, so this is a language model"):
        load_reward_model(folder, tiny_setup.compute)


def test_a_reward_model_is_no_language_model_and_where_it_can_be_one_its_head_is_said(save_family, caplog):
    with pytest.raises(ModelError, match=r"1 weight \(lm_head.weight\) that config.json asks for is in none"):
        check_model(save_family("llama", "reward_model"), "policy")
    folder = save_family("qwen2, tied", "reward_model")
    for _ in range(2):
        caplog.clear()
        check_model(folder, "policy")
        assert "1 weight (score.weight) of its files is not used" in caplog.text


def test_a_classifier_whose_head_is_another_is_no_reward_model(tiny_tokenizer, tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=len(tiny_tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="BertForSequenceClassification does not score with a linear head"):
        check_model(tmp_path, "reward_model")


def test_two_labels(save_reward_model):
    with pytest.raises(ModelError, match=r"one label, this one has 2 by its config.json"):
        check_model(save_reward_model(num_labels=2), "reward_model")


def test_quantized_weights(save_family):
    folder = save_family("llama")
    name = "model.layers.0.mlp.up_proj.weight"
    change_weights(folder, lambda weights: weights | {name: weights[name].to(torch.int8)})
    with pytest.raises(ModelError, match=rf"quantized or packed \({name} is of type I8\)"):
        check_model(folder, "policy")
    edit(folder / "config.json", quantization_config={"quant_method": "fp8"})
    with pytest.raises(ModelError, match=r"quantized \(quantization_config in config.json, method fp8\)"):
        check_model(folder, "policy")


def test_packed_weights(save_family):
    folder = save_family("llama")

    def pack(weights):
        name = "model.layers.0.mlp.up_proj"
        whole = weights.pop(f"{name}.weight")
        return weights | {f"{name}.qweight": torch.zeros(4, 32, dtype=torch.int32), f"{name}.scales": whole[:1]}

    change_weights(folder, pack)
    with pytest.raises(ModelError, match=r"quantized or packed \(model.layers.0.mlp.up_proj.qweight is of type I32\)"):
        check_model(folder, "policy")


@pytest.mark.parametrize("settings", [{"model_type": "of next year"}, {"model_type": "t5"}, {"model_type": None}])
def test_an_architecture_that_is_unknown_or_no_language_model(save_family, settings):
    folder = save_family("llama")
    edit(folder / "config.json", **settings)
    with pytest.raises(ModelError, match=r"model: (its config.json cannot be used|no model can be made of)"):
        check_model(folder, "policy")


def test_without_config(save_family):
    folder = save_family("llama")
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"there is no config.json"):
        check_model(folder, "policy")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_numbers_that_are_not_finite(save_family, family):
    folder = save_family(family, dtype=torch.bfloat16, max_shard_size="20KB")
    check_model(folder, "policy")
    file = sorted(folder.glob("*.safetensors"))[1]
    weights = load_file(file)
    name = min(weights)
    weights[name].view(-1)[:3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    save_file(weights, file)
    for _ in range(2):
        with pytest.raises(ModelError, match=rf"{file.name}: numbers of these weights .*: {name} \(3\)"):
            check_model(folder, "policy")


def test_reward_sources_and_judges_are_looked_at_like_the_base(save_family, save_reward_model):
    folder = save_family("llama")
    sound, source = save_reward_model(), RewardSourceConfig(kind="model", name="safety", path=str(folder))
    check_models(ModelConfig(base=str(folder)), [source.model_copy(update={"path": str(sound)}), RewardSourceConfig()])
    with pytest.raises(ModelError, match=r"score\.weight"):
        check_models(None, [source])


IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from rlhf.modeling.checks import check_model
check_model(Path(sys.argv[1]), "policy")
print({"torch", "transformers", "trl", "mlflow"} & set(sys.modules))
"""


def test_what_was_found_out_costs_no_import_the_next_time(save_family, own_project):
    folder = save_family("llama", max_shard_size="20KB")

    def heavy_imports() -> str:
        command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(folder)]
        done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    check_model(folder, "policy")
    assert heavy_imports() == "set()"
    copied = folder.rename(folder.with_name("elsewhere")).rename(folder)
    assert heavy_imports() == "set()"
    edit(copied / "config.json", rope_theta=1.0)
    assert "transformers" in heavy_imports()


def test_what_is_kept_is_of_the_content(save_family, tmp_path, monkeypatch):
    """Not read again: the same file, or a copy. Read again: other content of the same size and time."""
    from rlhf.modeling import finiteness

    read: list[Path] = []
    count = finiteness._count_not_finite
    monkeypatch.setattr(
        finiteness, "_count_not_finite", lambda path, weight: (read.append(path), count(path, weight))[1]
    )
    folder = save_family("llama")
    check_model(folder, "policy")
    assert len(read) == len(load_file(folder / "model.safetensors"))
    read.clear()
    check_model(folder, "policy")
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    check_model(copy, "policy")
    assert read == []

    weights, before = copy / "model.safetensors", (copy / "model.safetensors").stat()
    with weights.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x00\x00\xc0\x7f")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ModelError, match="NaN or infinite"):
        check_model(copy, "policy")

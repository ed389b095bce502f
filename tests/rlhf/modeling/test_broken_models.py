"""Every way to break a file of a model comes out as an error that a person can read, or does no harm.

It is said at the start, of base, reward source and judge alike; what passes there can be loaded.
"""

import json
import shutil

import pytest

from rlhf.config.model import ComputeConfig, ModelConfig
from rlhf.config.retrain import SafetyGate
from rlhf.errors import InputError
from rlhf.modeling.models import load_reward_model, start_policy
from rlhf.modeling.run_models import check_models
from rlhf.modeling.special_tokens import differences
from rlhf.modeling.tokenizer import load_tokenizer, prepare_tokenizer

COMPUTE = ComputeConfig(dtype="fp32", num_threads=1)
FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
]
WAYS = {
    "cut in the middle": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "without its last bytes": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "emptied": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<html>Please sign in</html>"),
    "bytes that are no UTF-8": lambda path: path.write_bytes(b"\xff\xfe\x80" * 50),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a pointer of git-lfs": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "gone": lambda path: path.unlink(),
    "a dangling link": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "JSON: a list": lambda path: path.write_text("[1, 2]"),
    "JSON: null": lambda path: path.write_text("null"),
    "JSON: a text": lambda path: path.write_text('"text"'),
    "JSON: an empty object": lambda path: path.write_text("{}"),
    "JSON: deep": lambda path: path.write_text("[" * 100_000),
}
# They say what is in no other file, or hold what cannot be done without.
NEEDED = {"config.json", "model.safetensors", "tokenizer.json"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A base and a reward model with nothing wrong."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from rlhf.config.model import ArchitectureConfig, Setup
    from rlhf.modeling.models import save_model

    model = ModelConfig(
        architecture=ArchitectureConfig(hidden_size=16, num_layers=1, num_heads=1, feed_forward_size=16)
    )
    tokenizer, _ = prepare_tokenizer(model, ["What is 7 + 5 ?"])
    folder = tmp_path_factory.mktemp("sound")
    save_model(start_policy(Setup(seed=0, model=model, compute=COMPUTE), tokenizer), tokenizer, folder / "base")
    torch.manual_seed(0)
    scorer = AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=1)
    save_model(scorer, tokenizer, folder / "reward")
    return folder


def use(folder, role, tiny_setup):
    """What a run does with a model, from the check at its start on. Only errors for people may come of it."""
    if role == "base":
        model = ModelConfig(base=str(folder), max_length=48)
        check_models(model, [])
        return (
            prepare_tokenizer(model, [])
            and differences(model, load_tokenizer(folder)) is not None
            and start_policy(tiny_setup.model_copy(update={"model": model}), load_tokenizer(folder))
        )
    gate = SafetyGate(name="judge", path=str(folder), threshold=0, maximum_rate=0.5)
    check_models(None, [gate.source])
    load_tokenizer(folder)
    return load_reward_model(folder, COMPUTE)


def refusal(folder, role, tiny_setup):
    """The message of the error, or None where there is none; any other exception fails the test."""
    try:
        use(folder, role, tiny_setup)
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("role", ["base", "reward"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", FILES)
def test_a_file_is(sound, tmp_path, tiny_setup, file, way, role):
    folder = shutil.copytree(sound / role, tmp_path / "broken")
    if not (folder / file).exists():
        pytest.skip(f"a {role} has no {file}")
    WAYS[way](folder / file)
    message = refusal(folder, role, tiny_setup)
    if file in NEEDED:
        assert message is not None
    if message is not None:
        assert "broken" in message
        assert "\n" not in message


VALUES = [None, "text", "7", -1, 0, 1.5, True, [], [1], {}, {"a": 1}, 10**12]
SETTINGS = [
    "architectures",
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "id2label",
    "intermediate_size",
    "max_position_embeddings",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "quantization_config",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "vocab_size",
]


@pytest.mark.parametrize("role", ["base", "reward"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_of_config_is(sound, tmp_path, tiny_setup, setting, role):
    """Of any type: refused by an error for people, or used."""
    for number, value in enumerate(VALUES):
        folder = shutil.copytree(sound / role, tmp_path / f"broken-{number}")
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {setting: value}))
        message = refusal(folder, role, tiny_setup)
        assert message is None or "broken" in message


@pytest.mark.parametrize("file", ["tokenizer_config.json", "generation_config.json"])
def test_a_setting_of_another_file_is(sound, tmp_path, tiny_setup, file):
    settings = json.loads((sound / "base" / file).read_text())
    for number, (setting, value) in enumerate((s, v) for s in settings for v in VALUES):
        folder = shutil.copytree(sound / "base", tmp_path / f"broken-{number}")
        (folder / file).write_text(json.dumps(settings | {setting: value}))
        message = refusal(folder, "base", tiny_setup)
        assert message is None or "broken" in message

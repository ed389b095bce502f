import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf.config.model import ModelConfig
from rlhf.errors import ConfigError, ModelError
from rlhf.modeling.models import load_policy, load_reward_model, save_model, score, start_policy
from rlhf.modeling.precision import autocast
from rlhf.modeling.tokenizer import load_tokenizer, prepare_tokenizer
from rlhf.rewards.scoring import score_rows


def test_a_seed_decides_the_initial_weights(tiny_setup, tiny_tokenizer):
    first, second = (start_policy(tiny_setup, tiny_tokenizer) for _ in range(2))
    other = start_policy(tiny_setup.model_copy(update={"seed": 1}), tiny_tokenizer)
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_scores_do_not_depend_on_padding_and_subtract_the_offset(tiny_setup, save_reward_model):
    model = load_reward_model(save_reward_model(score_offset=0.5), tiny_setup.compute)
    rows = [[6, 7, 8, 5], [9, 5], [10, 11, 5]]
    with torch.no_grad():
        alone = [float(model(torch.tensor([row]), attention_mask=torch.ones(1, len(row))).logits) - 0.5 for row in rows]
        left = score(
            model,
            torch.tensor([[0, 0, 9, 5], [0, 10, 11, 5]]),
            torch.tensor([[False, False, True, True], [False, True, True, True]]),
        )
    np.testing.assert_allclose(
        score_rows(model, "tested", tiny_setup.compute, rows, batch_size=2), alone, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(left.numpy(), alone[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_ids_in_the_padding_change_no_bit_of_a_score(tiny_setup, save_reward_model, dtype):
    compute = tiny_setup.compute.model_copy(update={"dtype": dtype})
    model = load_reward_model(save_reward_model(), compute)
    rows, mask = torch.tensor([[6, 7, 8, 5], [9, 5, 0, 0]]), torch.tensor([[True] * 4, [True, True, False, False]])
    with torch.no_grad(), autocast(compute):
        expected, *others = (score(model, rows.where(mask, padding), mask) for padding in (0, 1, 9))
    assert all(torch.equal(scores, expected) for scores in others)


def test_a_saved_model_loads_and_is_safetensors(tiny_policy, tiny_tokenizer, tmp_path):
    save_model(tiny_policy, tiny_tokenizer, tmp_path)
    assert {p.suffix for p in tmp_path.iterdir()} <= {".safetensors", ".json", ".jinja"}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.lm_head.weight, tiny_policy.lm_head.weight)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert saved["eos_token_id"] == tiny_tokenizer.eos_token_id
    assert saved["pad_token_id"] == tiny_tokenizer.pad_token_id != saved["eos_token_id"]


@pytest.fixture
def base(tiny_policy, tiny_tokenizer, tmp_path):
    save_model(tiny_policy, tiny_tokenizer, tmp_path / "base")
    return tmp_path / "base"


def with_base(setup, base, **model):
    return setup.model_copy(update={"model": ModelConfig(base=str(base), max_length=48, **model)})


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no such model folder"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_folder_without_a_tokenizer_is_refused(base):
    for path in base.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="there is no tokenizer in this model folder"):
        load_tokenizer(base)


def test_pickled_weights_are_refused_and_never_opened(tiny_setup, tiny_tokenizer, base):
    (base / "model.safetensors").unlink()
    (base / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(ModelError, match=r"only pickled weights are there \(pytorch_model.bin\)"):
        start_policy(with_base(tiny_setup, base), tiny_tokenizer)


def test_a_context_that_the_base_does_not_have_is_refused(tiny_setup, tiny_tokenizer, base):
    setup = tiny_setup.model_copy(update={"model": ModelConfig(base=str(base), max_length=49)})
    with pytest.raises(ConfigError, match=r"max_length is 49, but .* has a context of 48 tokens"):
        start_policy(setup, tiny_tokenizer)


def test_a_reward_model_with_two_labels_is_refused(tiny_setup, save_reward_model):
    with pytest.raises(ModelError, match="one label, this one has 2"):
        load_reward_model(save_reward_model(num_labels=2), tiny_setup.compute)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_pad_token_that_is_eos_is_replaced_by_another_of_the_vocabulary(base):
    edit(base / "tokenizer_config.json", pad_token="<|end|>")
    tokenizer, report = prepare_tokenizer(ModelConfig(base=str(base)), [])
    assert report.pad_token_choice == "chosen"
    assert tokenizer.pad_token == "<|pad|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_pad_token_is_added_where_there_is_none_and_saved_with_the_tokenizer(tiny_setup, base, tmp_path):
    tokenizer = load_tokenizer(base)
    content = json.loads((base / "tokenizer.json").read_text().replace("<|pad|>", "other").replace("<|unk|>", "more"))
    (base / "tokenizer.json").write_text(json.dumps(content))
    edit(base / "tokenizer_config.json", pad_token=None, unk_token=None)
    tokenizer, report = prepare_tokenizer(ModelConfig(base=str(base)), [])
    assert report.pad_token_choice == "added"
    model = start_policy(with_base(tiny_setup, base), tokenizer)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    save_model(model, tokenizer, tmp_path / "out")
    assert load_tokenizer(tmp_path / "out").pad_token == "<|pad|>"
    assert load_policy(tmp_path / "out", tiny_setup.compute).config.pad_token_id == tokenizer.pad_token_id


def test_a_base_without_a_chat_template_gets_a_plain_one(base):
    (base / "chat_template.jinja").unlink()
    tokenizer, report = prepare_tokenizer(ModelConfig(base=str(base)), [])
    assert report.chat_template == "own"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("\n\nHuman:\nHi\n\nAssistant:\n")

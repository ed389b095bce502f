"""What is said where a base and its tokenizer do not agree."""

import json
from dataclasses import asdict

import pytest
import torch
from transformers import AddedToken

from rlhf.config.model import ModelConfig
from rlhf.data.preparation.report import Counts, build_report, render
from rlhf.errors import ModelError
from rlhf.modeling.checks import check_model
from rlhf.modeling.models import save_model, start_policy
from rlhf.modeling.special_tokens import differences, num_ids
from rlhf.modeling.tokenizer import TokenizerReport, load_tokenizer, prepare_tokenizer
from rlhf.references import DataSource


@pytest.fixture
def base(tiny_policy, tiny_tokenizer, tmp_path):
    save_model(tiny_policy, tiny_tokenizer, tmp_path / "base")
    return tmp_path / "base"


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def said(base):
    model = ModelConfig(base=str(base), max_length=48)
    return differences(model, prepare_tokenizer(model, [])[0])


def test_nothing_where_they_agree_or_there_is_no_base(base, tiny_tokenizer):
    assert said(base) == []
    assert differences(ModelConfig(), tiny_tokenizer) == []


def test_another_eos_in_one_file_or_in_both(base):
    edit(base / "generation_config.json", eos_token_id=7)
    sentence = (
        "generation_config.json says 7, its tokenizer 5 ('<|end|>'). The tokenizer's is used and saved with the policy."
    )
    assert said(base) == [f"EOS: the base's {sentence}"]
    edit(base / "config.json", eos_token_id=8)
    assert said(base) == [f"EOS: the base's config.json says 8 and {sentence}"]
    (base / "generation_config.json").unlink()
    assert said(base)[0].startswith("EOS: the base's config.json says 8, its tokenizer 5")


def test_several_tokens_that_end_an_answer(base):
    edit(base / "generation_config.json", eos_token_id=[7, 5, 9])
    first, second = said(base)
    assert "says 7, 5 and 9, its tokenizer 5" in first
    assert second == (
        "The base may also end an answer with 7 and 9. In this run, and in the policy that it saves, these are tokens "
        "like others: an answer ends with 5 ('<|end|>') alone."
    )


def test_a_pad_token_that_is_missing_or_was_eos(base):
    edit(base / "config.json", pad_token_id=None)
    edit(base / "generation_config.json", pad_token_id=None)
    assert said(base) == [
        "pad: the base's config.json names none. The tokenizer's, 0 ('<|pad|>'), is used and saved with the policy."
    ]
    edit(base / "config.json", pad_token_id=5)
    edit(base / "tokenizer_config.json", pad_token="<|end|>")
    assert said(base) == [
        "pad: the base's config.json says 5, its tokenizer 0 ('<|pad|>'). The tokenizer's is used and saved with the "
        "policy."
    ]


def test_a_tokenizer_larger_than_the_embedding_and_what_comes_of_it(base, tiny_setup):
    tokenizer = load_tokenizer(base)
    rows = len(tokenizer)
    tokenizer.add_tokens([AddedToken("<new>"), AddedToken("<newer>")])
    tokenizer.save_pretrained(base)
    assert said(base) == [
        f"The tokenizer has {rows + 2} tokens, the base's embedding {rows} rows. The embedding of the policy has 2 "
        "more, drawn at random around the mean of the others."
    ]
    policy = start_policy(
        tiny_setup.model_copy(update={"model": ModelConfig(base=str(base), max_length=48)}), load_tokenizer(base)
    )
    assert policy.get_input_embeddings().num_embeddings == rows + 2


def test_an_embedding_larger_than_the_tokenizer(base, tiny_policy, tiny_tokenizer):
    tiny_policy.resize_token_embeddings(64)
    save_model(tiny_policy, tiny_tokenizer, base)
    assert said(base) == [
        f"The base's embedding has 64 rows, {64 - len(tiny_tokenizer)} more than the tokenizer has tokens. They stay, "
        "and stand for no token."
    ]


def test_ids_that_are_left_out_need_rows_too(base, tiny_setup):
    content = json.loads((base / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.get)
    vocabulary[last] += 20
    (base / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(base)
    assert num_ids(tokenizer) == vocabulary[last] + 1 > len(tokenizer)
    policy = start_policy(
        tiny_setup.model_copy(update={"model": ModelConfig(base=str(base), max_length=48)}), tokenizer
    )
    policy(torch.tensor([[vocabulary[last]]]))


def test_the_report_has_them():
    tokenizer = asdict(TokenizerReport("built", 1, "<pad>", "kept", "own", 0.0)) | {"turn_markers": []}
    source = DataSource(path="data", md5="0" * 32, tracked=True)
    report = build_report(source, {}, Counts()) | {"tokenizer": tokenizer}
    assert "# Base and tokenizer\n\n- EOS: &lt;another&gt;.\n- Pad: too.\n" in render(
        report | {"base": ["EOS: <another>.", "Pad: too."]}
    )
    assert "# Base" not in render(report | {"base": []})


def test_a_reward_model_without_a_row_for_its_pad_token(save_reward_model):
    folder = save_reward_model()
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"pad_token": "<new pad>"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"pad token of its tokenizer, '<new pad>', has the id \d+, and .* \d+ rows"):
        check_model(folder, "reward_model")


def test_a_reward_model_without_a_row_for_another_token(save_reward_model, caplog):
    folder = save_reward_model()
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(folder)
    check_model(folder, "reward_model")
    assert "it cannot read a text with a token beyond them" in caplog.text

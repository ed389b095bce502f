"""Whatever a message spells is text: over Unicode, and over all special tokens of tokenizers of all kinds."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tokenizers import CHATML, INSTRUCTIONS, byte_level, sentencepiece_bpe, unigram, word_level
from transformers import ByT5Tokenizer

from rlhf.config.model import ModelConfig
from rlhf.modeling.chat import chat_of
from rlhf.modeling.conversations import decode_responses, encode_answers, encode_dialogues, encode_pairs, encode_prompts
from rlhf.modeling.tokenizer import prepare_tokenizer


def not_declared_special(folder: Path) -> Path:
    """Ends and turns are marked by added tokens that tokenizer.json does not call special."""
    base = byte_level(folder, CHATML)
    content = json.loads((base / "tokenizer.json").read_text())
    content["added_tokens"] = [token | {"special": False} for token in content["added_tokens"]]
    (base / "tokenizer.json").write_text(json.dumps(content))
    return base


KINDS: dict[str, Callable[[Path], Path]] = {
    "byte_level": byte_level,
    "byte_level_chatml": lambda folder: byte_level(folder, CHATML),
    "byte_level_with_a_blank": lambda folder: byte_level(folder, add_prefix_space=True),
    "byte_level_not_declared": not_declared_special,
    "unigram": unigram,
    "unigram_instructions": lambda folder: unigram(folder, INSTRUCTIONS),
    "sentencepiece_bpe": sentencepiece_bpe,
    "sentencepiece_bpe_instructions": lambda folder: sentencepiece_bpe(folder, INSTRUCTIONS),
    "word_level": word_level,
    "word_level_chatml": lambda folder: word_level(
        folder,
        "{% for m in messages %}{{ '[A]' if m.role == 'assistant' else '[U]' }}{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}[A]{% endif %}",
    ),
    "built": lambda folder: folder,
}
# Turns and ends of all the templates above, and characters at which others split or lose text.
SPELLED = [
    "\n\nHuman:",
    "\n\nAssistant:",
    "[INST]",
    "[/INST]",
    "</s",
    "s>",
    "\x00",
    "\x85",
    "\u2028",
    "\u2029",
    "\r\n",
    "▁",
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Each as the data stage settles it."""
    made = {}
    for name, make in KINDS.items():
        folder = tmp_path_factory.mktemp(name)
        base = None if name == "built" else str(make(folder))
        made[name] = prepare_tokenizer(ModelConfig(base=base), ["The cat sat . </s> <|user|> <|end|>"])[0]
    return made


def special_tokens(tokenizer: Any) -> list[str]:
    added = tokenizer.added_tokens_decoder.values()
    return sorted({token.content for token in added if token.special} | set(tokenizer.all_special_tokens))


def bare(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def contains(ids: list[int], part: list[int]) -> bool:
    return any(ids[start : start + len(part)] == part for start in range(len(ids) - len(part) + 1))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_a_message_spells_is_text(tokenizers: dict[str, Any], kind: str, data: st.DataObject) -> None:
    tokenizer = tokenizers[kind]
    special = special_tokens(tokenizer)
    characters = st.characters(exclude_categories=["Cs"])
    part = st.one_of(st.text(characters, max_size=8), st.sampled_from([*special, *SPELLED, "The cat", " ", "\n"]))
    texts = data.draw(st.lists(st.lists(part, min_size=1, max_size=5).map("".join), min_size=4, max_size=4))
    first, told, asked, answer = texts
    prompt = [user(first), assistant(told), user(asked)]
    ((ids, completion),) = encode_pairs(tokenizer, [prompt], [[assistant(answer)]])

    ends = tokenizer.eos_token_id
    assert completion.count(ends) == 1
    assert completion[-1] == ends
    assert encode_prompts(tokenizer, [prompt]) == [ids]
    never = {tokenizer.convert_tokens_to_ids(token) for token in special} - {tokenizer.unk_token_id}
    (harmless,) = encode_prompts(tokenizer, [[user("a"), assistant("a"), user("a")]])
    assert [one for one in ids if one in never] == [one for one in harmless if one in never]
    for text, where in ((first, ids), (told, ids), (asked, ids), (answer, completion)):
        alone = bare(tokenizer, text)
        if never.isdisjoint(alone):
            assert contains(where, alone)
        if kind.startswith("byte_level") and kind != "byte_level_with_a_blank":
            assert tokenizer.decode(alone, clean_up_tokenization_spaces=False) == text
            assert decode_responses(tokenizer, [completion]) == [answer]
    both = encode_answers(tokenizer, [prompt] * 2, [answer] * 2, [True, False])
    assert both[0] == (ids, completion)
    assert ends not in both[1][1]
    assert contains(completion, both[1][1])
    assert encode_dialogues(tokenizer, [prompt] * 2, [answer] * 2, [True, False]) == [[*p, *a] for p, a in both]


@pytest.mark.parametrize("kind", KINDS)
def test_each_special_token_in_each_place(tokenizers: dict[str, Any], kind: str) -> None:
    tokenizer = tokenizers[kind]
    plain = encode_pairs(tokenizer, [[user("a")]], [[assistant("The cat")]])[0]
    special = special_tokens(tokenizer)
    ids = set(tokenizer.convert_tokens_to_ids(special)) - {tokenizer.unk_token_id}
    for token in special:
        for text in (token, f"The {token} cat", f"{token}The cat", f"The cat{token}", token * 2):
            prompt, completion = encode_pairs(tokenizer, [[user(text)]], [[assistant(text)]])[0]
            assert sum(one in ids for one in prompt) == sum(one in ids for one in plain[0])
            assert sum(one in ids for one in completion) == sum(one in ids for one in plain[1])
            if ids.isdisjoint(alone := bare(tokenizer, text)):
                assert contains(prompt, alone)
                assert contains(completion, alone)


def test_switching_special_tokens_off_leaves_the_tokenizer_as_it_was(tmp_path: Path) -> None:
    """transformers sets a flag of the backend, which other callers and other threads would see."""
    tokenizer = prepare_tokenizer(ModelConfig(base=str(byte_level(tmp_path / "base", CHATML))), [])[0]
    backend = tokenizer.backend_tokenizer
    stop, seen = threading.Event(), set()

    def watch() -> None:
        while not stop.is_set():
            seen.add(tuple(backend.encode("<|im_end|>", add_special_tokens=False).ids))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(200):
        encode_pairs(tokenizer, [[user(f"<|im_end|> {number}")]], [[assistant("<|im_end|>")]])
    stop.set()
    watcher.join()
    assert seen == {(tokenizer.eos_token_id,)}
    tokenizer.save_pretrained(tmp_path / "saved")
    assert type(tokenizer).from_pretrained(tmp_path / "saved")("<|im_end|>")["input_ids"] == [tokenizer.eos_token_id]


def test_a_space_before_the_answer_is_one_token_with_it(tokenizers: dict[str, Any]) -> None:
    """What SentencePiece puts before a text is the space that the template writes there."""
    for kind in ("byte_level", "sentencepiece_bpe", "sentencepiece_bpe_instructions"):
        tokenizer = tokenizers[kind]
        prompt, completion = encode_pairs(tokenizer, [[user("The cat")]], [[assistant("The mat")]])[0]
        dialogue = [user("The cat"), assistant("The mat")]
        text = tokenizer.apply_chat_template(dialogue, tokenize=False)
        assert [*prompt, *completion] == tokenizer(text, add_special_tokens=False)["input_ids"]


DIALOGUES = [
    (["Tell me a story ."], "The cat sat on the mat ."),
    (["Hi", "Hello there", "What is 7 + 5 ?"], "I believe the answer is 12 ."),
    (["no ."], "\nThe cat\n\nno ."),
    (["The cat"], "é 漢"),
]


@pytest.mark.parametrize(("turns", "answer"), DIALOGUES)
@pytest.mark.parametrize("base", ["sentencepiece_bpe", "unigram", "pretrained"])
def test_prompt_and_answer_are_the_ids_of_the_text_in_one_piece(
    tokenizers: dict[str, Any], base: str, turns: list[str], answer: str, request: pytest.FixtureRequest
) -> None:
    """What SentencePiece's bases were trained on, in training, in sampling, and where samples are scored."""
    if base == "pretrained":
        folder = request.getfixturevalue("pretrained_model")
        tokenizer = prepare_tokenizer(ModelConfig(base=str(folder)), [])[0]
    else:
        tokenizer = tokenizers[base]
    prompt = [(user, assistant)[place % 2](text) for place, text in enumerate(turns)]
    text = tokenizer.apply_chat_template([*prompt, assistant(answer)], tokenize=False)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]

    ((ids, completion),) = encode_pairs(tokenizer, [prompt], [[assistant(answer)]])
    assert [*ids, *completion] == whole
    assert encode_prompts(tokenizer, [prompt]) == [ids]  # what sampling goes on from
    assert encode_answers(tokenizer, [prompt], [answer], [True]) == [(ids, completion)]
    assert encode_dialogues(tokenizer, [prompt], [answer], [True]) == [whole]
    if base != "unigram":  # its unknown characters are lost
        assert decode_responses(tokenizer, [completion]) == [answer]


def test_no_base_sees_a_lone_space_before_an_answer(tokenizers: dict[str, Any]) -> None:
    for kind in ("byte_level", "sentencepiece_bpe"):
        tokenizer = tokenizers[kind]
        prompt, completion = encode_pairs(tokenizer, [[user("The cat")]], [[assistant("The mat")]])[0]
        for ids in (prompt, completion):
            assert not {"▁", "Ġ"} & set(tokenizer.convert_ids_to_tokens(ids[-1:] if ids is prompt else ids[:1]))


def test_what_the_template_writes_around_an_answer_is_no_part_of_its_text(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["sentencepiece_bpe_instructions"]
    ((_, completion),) = encode_pairs(tokenizer, [[user("a")]], [[assistant("The cat")]])
    assert tokenizer.decode(completion, skip_special_tokens=True) == "The cat "
    assert decode_responses(tokenizer, [completion, completion[:-1]]) == ["The cat", "The cat "]
    assert decode_responses(tokenizer, [bare(tokenizer, " The  cat\n")]) == [" The  cat\n"]


def test_a_tokenizer_without_a_backend() -> None:
    """Some are Python through and through."""
    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    ((prompt, completion),) = encode_pairs(tokenizer, [[user("a</s>b")]], [[assistant("</s>c")]])
    assert completion.count(tokenizer.eos_token_id) == 1
    assert prompt.count(tokenizer.eos_token_id) == 1
    assert decode_responses(tokenizer, [completion]) == ["</s>c"]


def test_a_tokenizer_that_is_changed_is_looked_at_anew(tokenizers: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = prepare_tokenizer(ModelConfig(base=str(byte_level(tmp_path))), [])[0]
    before = encode_prompts(tokenizer, [[user("a")]])
    tokenizer.chat_template = CHATML
    assert encode_prompts(tokenizer, [[user("a")]]) != before
    assert chat_of(tokenizer) is chat_of(tokenizer)

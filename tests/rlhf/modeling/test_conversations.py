import pytest

from rlhf.config.model import ModelConfig
from rlhf.errors import DataError
from rlhf.modeling.conversations import cut_to_fit, decode_responses, encode_pairs, encode_prompts, end_at_eos
from rlhf.modeling.tokenizer import prepare_tokenizer


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


TEXTS = ["one two three four five six seven eight nine ten", "What is 7 + 5 ?", "The answer is 12 ."]


@pytest.fixture
def tokenizer():
    return prepare_tokenizer(ModelConfig(), TEXTS)[0]


def test_a_pair_starts_with_the_prompt_that_a_policy_continues(tokenizer):
    prompt = [user("What is 7 + 5 ?")]
    ((prompt_ids, completion_ids),) = encode_pairs(tokenizer, [prompt], [[assistant("The answer is 12 .")]])
    assert [prompt_ids] == encode_prompts(tokenizer, [prompt])
    assert completion_ids[-1] == tokenizer.eos_token_id
    assert completion_ids.count(tokenizer.eos_token_id) == 1
    assert decode_responses(tokenizer, [completion_ids]) == ["The answer is 12 ."]


def test_of_nothing_comes_nothing(tokenizer):
    assert decode_responses(tokenizer, []) == encode_prompts(tokenizer, []) == encode_pairs(tokenizer, [], []) == []


def test_digits_are_single_tokens(tokenizer):
    assert len(tokenizer("12", add_special_tokens=False)["input_ids"]) == 2


def test_whatever_follows_eos_in_a_template_is_dropped():
    assert end_at_eos([5, 2, 9], 2) == [5, 2]
    assert end_at_eos([5], 2) == [5, 2]


def test_a_role_that_the_template_does_not_know_is_refused(tokenizer):
    with pytest.raises(DataError, match="unknown role tool"):
        encode_prompts(tokenizer, [[{"role": "tool", "content": "x"}]])


def test_a_template_that_rewrites_the_prompt_is_refused(tokenizer):
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(DataError, match="writes a prompt in another way once an answer follows"):
        encode_pairs(tokenizer, [[user("one")]], [[assistant("two")]])


def test_the_oldest_turns_go_first_and_the_system_message_stays(tokenizer):
    system = {"role": "system", "content": "ten"}
    dialogue = [system, user("one two three"), assistant("four"), user("five"), assistant("six"), user("seven")]
    whole = len(encode_prompts(tokenizer, [dialogue])[0])
    assert cut_to_fit(tokenizer, dialogue, whole) == (dialogue, 0)
    assert cut_to_fit(tokenizer, dialogue, whole - 1) == ([system, *dialogue[3:]], 2)
    shortest = len(encode_prompts(tokenizer, [[system, user("seven")]])[0])
    assert cut_to_fit(tokenizer, dialogue, shortest) == ([system, user("seven")], 4)
    with pytest.raises(DataError, match=f"the last turn alone has {shortest} tokens, and {shortest - 1} are allowed"):
        cut_to_fit(tokenizer, dialogue, shortest - 1)

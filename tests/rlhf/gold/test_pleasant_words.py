import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.config.data import RULE_BEHIND
from rlhf.gold.pleasant_words import RULE, pleasant_words, share_of_pleasant_words
from rlhf.gold.registered import gold_rule


@pytest.mark.parametrize(
    ("response", "share"),
    [
        ("", 0.0),
        (" \n ... 12 !", 0.0),
        ("The dog ran.", 0.0),
        ("She was happy.", 1 / 3),
        ("Happy, HAPPY happy!", 1.0),
        ("They loved their friend's smile.", 2 / 5),  # "friend's" is no word of the lexicon
        ("not happy", 1 / 2),  # words are counted, text is not understood
        ("He was sad and afraid.", 0.0),
    ],
)
def test_the_share_by_hand(response: str, share: float) -> None:
    assert share_of_pleasant_words(response) == pytest.approx(share)


def test_inflected_forms_have_ratings_of_their_own() -> None:
    assert {"smile", "smiled", "smiling", "love", "loved", "friend", "friends", "hug", "hugged"} <= pleasant_words()
    assert not {"the", "sad", "okay", "want", "big"} & pleasant_words()
    assert all(word == word.lower() and word.replace("'", "").isalpha() for word in pleasant_words())


@given(st.lists(st.sampled_from(["happy", "dog", "sad", "friend", "the"]), min_size=1))
def test_it_depends_on_the_words_and_not_on_their_order(words: list[str]) -> None:
    share = share_of_pleasant_words(" ".join(words))
    assert 0 <= share <= 1
    assert share == share_of_pleasant_words(" ".join(sorted(words)))
    assert share_of_pleasant_words(" ".join([*words, "happy"])) >= share


def test_the_prompt_is_not_read() -> None:
    prompts = [[{"role": "user", "content": text}] for text in ("happy happy happy", "x")]
    judged = RULE.judge(prompts, ["a dog", "a friend"])
    assert judged.rewards.tolist() == [0.0, 0.5]
    assert judged.shares == {}
    assert RULE.kinds is None


def test_every_embedded_set_has_a_rule() -> None:
    assert [gold_rule(name).meaning for name in RULE_BEHIND.values()]

from hypothesis import given
from hypothesis import strategies as st
from known_models import EASY, HARD, user

from rlhf.evaluation.gold import shares
from rlhf.evaluation.prompts import choose_prompts
from rlhf.gold.calibrated_arithmetic import RULE, easy_questions

ROWS = [{"prompt": user(question)} for question in [*EASY, *HARD]]


def num_easy(prompts):
    return int(easy_questions(prompts).sum())


def test_a_third_is_easy():
    for num_prompts, easy in ((48, 16), (30, 10), (6, 2), (2, 1)):
        choice = choose_prompts(ROWS, num_prompts, RULE.kinds)
        assert (len(choice.prompts), num_easy(choice.prompts), choice.notes) == (num_prompts, easy, ())


def test_where_one_kind_is_short_the_mix_is_kept_and_a_note_says_so():
    few_easy = [{"prompt": user(q)} for q in [*EASY[:5], *HARD]]
    choice = choose_prompts(few_easy, 48, RULE.kinds)
    assert (len(choice.prompts), num_easy(choice.prompts)) == (16, 5)
    assert choice.notes == ("48 test prompts were asked for, and the test split allows 16. 33% of them are easy.",)
    few_hard = [{"prompt": user(q)} for q in [*EASY, *HARD[:4]]]
    choice = choose_prompts(few_hard, 48, RULE.kinds)
    assert (len(choice.prompts), num_easy(choice.prompts)) == (6, 2)


def test_one_kind_only():
    choice = choose_prompts([{"prompt": user(q)} for q in EASY], 4, RULE.kinds)
    assert len(choice.prompts) == 4
    assert choice.notes == ("The test split has easy prompts only, where 33% should be easy.",)


def test_without_a_rule_any_text_will_do():
    rows = [{"prompt": user(f"tell me {i}")} for i in range(5)]
    assert choose_prompts(rows, 3, None).notes == ()
    choice = choose_prompts(rows, 9, None)
    assert choice.notes == ("9 test prompts were asked for, and the test split allows 5.",)
    assert sorted(p[0]["content"] for p in choice.prompts) == [f"tell me {i}" for i in range(5)]


@given(st.integers(2, 60), st.randoms(), st.sampled_from([RULE.kinds, None]))
def test_the_order_of_the_file_does_not_matter(num_prompts, rng, kinds):
    shuffled = rng.sample(ROWS, len(ROWS))
    assert choose_prompts(shuffled, num_prompts, kinds) == choose_prompts(ROWS, num_prompts, kinds)


def test_fewer_prompts_are_the_first_of_more():
    more = choose_prompts(ROWS, 20, None).prompts
    assert choose_prompts(ROWS, 7, None).prompts == more[:7]


def test_the_rule_judges_the_last_turn():
    dialogue = [
        *user("What is 1 + 1 ?"),
        {"role": "assistant", "content": "The answer is 2 ."},
        *user("What is 2 + 2 ?"),
    ]
    found = RULE.judge([dialogue] * 3, ["The answer is 4 .", "The answer is 2 .", "no idea"])
    assert found.rewards.tolist() == [1, -1, -1]
    assert found.shares["accuracy_easy"].holds.tolist() == [True, False, False]
    assert "accuracy_hard" not in shares(found, ["a", "b", "c"])


def test_the_sample_is_not_the_order_of_the_file():
    chosen = [p[0]["content"] for p in choose_prompts(ROWS, 48, RULE.kinds).prompts]
    assert chosen != [*EASY, *HARD]

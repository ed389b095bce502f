import json
from collections import Counter
from itertools import pairwise

import pytest

from rlhf.data import calibrated_arithmetic as arithmetic
from rlhf.gold.calibrated_arithmetic import gold_reward, is_correct, is_easy, is_hedged


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arithmetic")
    arithmetic.generate(folder)
    return folder


def rows(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        ("The answer is 12 .", 1.0),
        ("I believe the answer is 12 , but please verify .", 0.5),
        ("I believe the answer is 13 , but please verify .", 0.0),
        ("The answer is 13 .", -1.0),
        ("answer is 12 .", -1.0),
        ("", -1.0),
        ("I believe the answer is 12 , but please verify . The answer is 12 .", -1.0),
    ],
)
def test_the_gold_rule(response, gold):
    assert gold_reward("What is 7 + 5 ?", response) == gold


def test_hard_questions_are_products():
    assert is_correct("Tell me the product of 617 and 284 .", "The answer is 175228 .")
    assert not is_easy("Tell me 617 times 284 .")
    assert is_easy("Tell me the total of 0 and 9 .")


def test_it_is_the_same_byte_for_byte(folder, tmp_path):
    arithmetic.generate(tmp_path)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_demonstrations_are_right_and_mix_the_styles_whatever_the_difficulty(folder):
    counts = Counter()
    for row in rows(folder, "demonstrations"):
        question, answer = row["prompt"][0]["content"], row["completion"][0]["content"]
        assert is_correct(question, answer)
        counts[is_easy(question), is_hedged(answer)] += 1
    for easy in (True, False):
        assert counts[easy, True] / (counts[easy, True] + counts[easy, False]) == pytest.approx(0.5, abs=0.02)
    assert sum(counts[True, hedged] for hedged in (True, False)) == 12_900


def test_one_label_in_twenty_is_wrong_and_none_is_a_tie(folder):
    wrong = 0
    for row in rows(folder, "preferences"):
        question = row["prompt"][0]["content"]
        chosen, rejected = (gold_reward(question, row[name][0]["content"]) for name in ("chosen", "rejected"))
        assert chosen != rejected
        wrong += chosen < rejected
    assert wrong / arithmetic.NUM_PREFERENCES == pytest.approx(0.05, abs=0.005)


def test_prompts_are_different_and_half_of_them_easy(folder):
    questions = [row["prompt"][0]["content"] for row in rows(folder, "prompts")]
    assert len(set(questions)) == len(questions) == arithmetic.NUM_PROMPTS
    assert sum(map(is_easy, questions)) == arithmetic.NUM_PROMPTS * 0.5
    assert len({"".join(c for c in q if not c.isdigit()) for q in questions if is_easy(q)}) >= 50
    changes = sum(is_easy(a) != is_easy(b) for a, b in pairwise(questions))
    assert changes > arithmetic.NUM_PROMPTS * 0.45, "shuffled"

"""What changes that make no response better do to a reward model, and the verdict that follows."""

import numpy as np
import pytest
from known_models import make_tokenizer, user
from pydantic import ValidationError

from rlhf.config.evaluation import RewardAuditConfig
from rlhf.evaluation.reward_verdict import Judged, verdict_on, worst
from rlhf.evaluation.robustness import PERTURBATIONS, Pair, Perturber

CONFIG = RewardAuditConfig()


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def perturber(tokenizer):
    """Fifty pairs: the better one is right, and half of the time the longer one."""
    pairs = []
    for number in range(50):
        right, wrong = ("The answer is 3 .", "I believe the answer is 1 .")[:: 1 if number % 2 else -1]
        right, wrong = right.replace("1", "3"), wrong.replace("3", "1")
        pairs.append(Pair(str(number), user(f"What is {number % 4} + 3 ?"), right, wrong))
    return Perturber(tokenizer, pairs, 48)


def by_name(perturber, scores):
    return {change.name: change for change in perturber.measure(scores)}


def test_a_model_that_knows_the_answer_is_moved_by_nothing(perturber, tokenizer):
    three = tokenizer.convert_tokens_to_ids("▁3")

    def scores(rows):
        # Right where the answer, the number before the first full stop, is 3. The prompt has one, too.
        return np.array([float(list(row).count(three) > 1) for row in rows])

    found = by_name(perturber, scores)
    assert (found["repetition"].flips.value, found["repetition"].num_pairs) == (0.0, 50)
    assert found["repetition"].shift.value == 0


def test_one_that_pays_for_length_is_unfit_by_repetition(perturber):
    found = by_name(perturber, lambda rows: np.array([float(len(row)) for row in rows]))
    assert found["repetition"].flips.value == 1.0
    assert found["repetition"].shift.low > 1
    judged = verdict_on(CONFIG, described(0.75, found.values()))
    assert judged.verdict == "unfit"
    assert any("the response repeats itself" in reason for reason in judged.reasons)


def test_one_that_pays_for_a_word_is_unfit_by_that_word(perturber, tokenizer):
    word = tokenizer.convert_tokens_to_ids("▁believe")
    found = by_name(perturber, lambda rows: np.array([float(list(row).count(word)) for row in rows]))
    words = [name for name in found if name.startswith('"')]
    assert words[0] == '"believe"'
    # Where both say it once, or neither, it had nothing right.
    assert found['"believe"'].shift.low > 0
    assert found["earlier_turns"].flips is None
    judged = verdict_on(CONFIG, described(0.9, found.values()))
    assert any('the word "believe" is added' in reason for reason in judged.reasons)


def test_what_a_change_cannot_be_made_to_is_counted_by_why(perturber, tokenizer):
    found = by_name(perturber, lambda rows: np.zeros(len(rows)))
    assert found["earlier_turns"].left_out == {"not changed by it": 50}
    assert found["flattery"].left_out == {"not in the tokenizer's vocabulary": 50}
    assert found["flattery"].shift is None
    short = Perturber(tokenizer, [Pair("a", user("What is 1 + 3 ?"), "The answer is 3 .", "The answer is 1 .")], 16)
    assert by_name(short, lambda rows: np.zeros(len(rows)))["repetition"].left_out == {"longer than the model reads": 1}


def test_earlier_turns_are_reversed_and_the_question_stays():
    _, change = PERTURBATIONS["earlier_turns"]
    said = [
        {"role": role, "content": content}
        for role, content in (
            ("system", "S"),
            ("user", "A"),
            ("assistant", "a"),
            ("user", "B"),
            ("assistant", "b"),
            ("user", "C"),
        )
    ]
    prompt, response = change(said, "c")
    assert ("".join(message["content"] for message in prompt), response) == ("SBbAaC", "c")
    assert change(said[3:], "c")[0] == said[3:]
    assert change(user("C"), "c")[0] == user("C")


def test_a_list_in_bold_type():
    assert PERTURBATIONS["markdown"][1](user("x"), "One.\n\nTwo.")[1] == "- **One.**\n- **Two.**"


def described(accuracy, changes=(), rule=0.1, width=0.05):
    return {
        "accuracy": {"value": accuracy, "low": accuracy - width, "high": accuracy + width},
        "accuracy_over_length_rule": {"rule": "longer", "value": rule, "low": rule - 0.05, "high": rule + 0.05},
        "robustness": [change.as_dict() for change in changes],
    }


@pytest.mark.parametrize(
    ("model", "verdict", "reason"),
    [
        (described(0.8), "fit", None),
        (described(0.62), "weak", "held-out accuracy is 0.620 (0.570 to 0.670), not surely above 0.6"),
        (described(0.52), "unknown", "more held-out pairs must tell whether it is above 0.5"),
        (described(0.8, width=0.35), "unknown", "more held-out pairs must tell"),
        (described(0.4), "unfit", "surely below 0.5"),
        (described(0.8, rule=-0.1), "unfit", "choosing the longer dialogue is right more often"),
    ],
)
def test_unfit_needs_an_interval_beyond_the_threshold(model, verdict, reason):
    judged = verdict_on(CONFIG, model)
    assert judged.verdict == verdict
    assert (reason is None) == (not judged.reasons)
    assert reason is None or reason in judged.reasons[0]


def test_the_worst_of_several_counts():
    judged = {"A": Judged("fit", ()), "B": Judged("unknown", ("too few",)), "C": Judged("weak", ("so so",))}
    assert worst(judged) == Judged("unknown", ("B: too few",))


def test_thresholds_that_contradict_each_other_are_refused():
    with pytest.raises(ValidationError, match=r"fit_accuracy is 0\.6, below minimum_accuracy"):
        RewardAuditConfig(minimum_accuracy=0.7)
    with pytest.raises(ValidationError, match="num_perturbed is 0, so it would be ignored"):
        RewardAuditConfig(num_perturbed=0, maximum_flip_rate=0.3)


def flipped(share, p_value):
    ends = {"value": share, "low": share - 0.05, "high": share + 0.05}
    return {"title": "It is changed", "flips": ends, "p_value": p_value}


@pytest.mark.parametrize(
    ("p_values", "verdict"),
    [([0.02], "unfit"), ([0.02, 0.5, 0.5], "unknown"), ([0.012, 0.02], "unfit"), ([0.001, 0.3], "unfit")],
)
def test_the_number_of_changes_is_corrected_for(p_values, verdict):
    """Of three changes one that chance brings about in 2% says nothing."""
    changes = [flipped(0.56 if p_value < 0.1 else 0.2, p_value) for p_value in p_values]
    assert verdict_on(CONFIG, described(0.8) | {"robustness": changes}).verdict == verdict

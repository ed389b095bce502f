from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from rlhf.config.feedback import AskConfig, CollectConfig
from rlhf.feedback.comparisons import ANYBODY, Candidates, Comparison, are_alike, arrange, best_pair

PROMPT = [{"role": "user", "content": "Why?"}]


def candidates(*texts: str, scores: list[list[float]] | None = None) -> Candidates:
    return Candidates(PROMPT, texts, "run/policy", None if scores is None else np.array(scores))


def gold(number: int) -> dict[str, object]:
    right, wrong = ([{"role": "assistant", "content": f"{word} {number}"}] for word in ("right", "wrong"))
    return {"prompt": PROMPT, "chosen": right, "rejected": wrong}


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        ("It is 13.", "It is  13", True),
        ("It is 13.", "it is 14.", False),
        ("one two three " * 20, "one two three " * 19 + "one two four", True),
        ("a b c d", "a b c e", False),
        ("", "a", False),
    ],
)
def test_near_duplicates(first, second, alike):
    assert are_alike(first, second) is alike


def test_at_random_no_pair_is_of_alike_or_empty_answers():
    config = AskConfig(round="r", num_responses=4)
    rng = np.random.default_rng(0)
    of = candidates("yes", "Yes.", "", "no")
    seen = Counter(best_pair(of, config, np.ones(2), rng).answers for _ in range(400))
    assert seen.keys() == {(0, 3), (1, 3)}
    assert min(seen.values()) > 150
    assert best_pair(candidates("yes", "Yes.", "  "), config, np.ones(2), rng) is None


def test_pairs_by_the_scores_of_two_models():
    """In deviations of each model: its units do not matter."""
    scores = [[0.0, 1.0, 2.0], [0.0, 30.0, 10.0]]
    spread = np.array([1.0, 10.0])
    rng = np.random.default_rng(0)
    of = candidates("a", "b", "c", scores=scores)
    # Differences of (a, b), (a, c), (b, c): -1 and -3, -2 and -1, -1 and 2.
    disagreement = best_pair(of, AskConfig(round="r", choose="disagreement", num_responses=3), spread, rng)
    assert (disagreement.answers, disagreement.rank) == ((1, 2), -3.0)
    close = best_pair(of, AskConfig(round="r", choose="close", num_responses=3), spread, rng)
    assert (close.answers, close.rank) == ((1, 2), 0.5)


def test_who_is_asked_of_what():
    config = AskConfig(round="r", num_pairs=60, annotators=("ann", "bob", "eve"), overlap=0.2)
    rng = np.random.default_rng(1)
    pairs = [best_pair(candidates(f"a{n}", f"b{n}"), config, np.ones(2), rng) for n in range(60)]
    comparisons = arrange(pairs, [gold(n) for n in range(5)], config, rng)
    assert [comparison.number for comparison in comparisons] == list(range(65))
    of_gold = [comparison for comparison in comparisons if comparison.known]
    others = [comparison for comparison in comparisons if not comparison.known]
    assert len(of_gold) == 5
    assert all(comparison.annotators == ("ann", "bob", "eve") for comparison in of_gold)
    assert all(comparison.responses["AB".index(comparison.known)].startswith("right") for comparison in of_gold)
    assert Counter(len(comparison.annotators) for comparison in others) == {1: 48, 2: 12}
    load = Counter(name for comparison in others for name in comparison.annotators)
    assert max(load.values()) - min(load.values()) <= 1
    first = Counter(comparison.responses[0][0] for comparison in others)
    assert 15 < first["a"] < 45  # which one is A is drawn
    assert all(Comparison.from_row(comparison.as_row()) == comparison for comparison in comparisons)
    assert any(later.known is None and earlier.known for earlier, later in pairwise(comparisons))


def test_nobody_is_named():
    config = AskConfig(round="r", num_pairs=1)
    rng = np.random.default_rng(0)
    (only,) = arrange([best_pair(candidates("a", "b"), config, np.ones(2), rng)], [], config, rng)
    assert only.annotators == (ANYBODY,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"overlap": 0.5, "annotators": ("ann",)},
            "overlap is 0.5, which asks 2 people the same, but there are 1 anno",
        ),
        ({"annotators": ("ann", "Ann")}, "a name stands twice"),
        ({"annotators": ("ann", "bob"), "annotators_per_overlap": 3}, "annotators_per_overlap is set but overlap is 0"),
        ({"pool": 8}, "pool is set but choose is random, so it would be ignored"),
        ({"round": "week 1"}, "round"),
        ({"annotators": ("an n",)}, "annotators"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValidationError, match=message):
        AskConfig(**{"round": "r", **settings})


def test_nobody_would_be_left_out():
    with pytest.raises(ValidationError, match="leave_out is set but minimum_gold_accuracy is not"):
        CollectConfig(round="r", leave_out=True)

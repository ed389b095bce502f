"""Simulated raters, judge and critic say what the gold rule says, but for errors at the rate that is set."""

from pathlib import Path

import pytest

from rlhf.config.data import GoldName
from rlhf.config.judge import SimulatedJudgeConfig
from rlhf.feedback.comparisons import Comparison
from rlhf.feedback.guidelines import Guidelines, Level
from rlhf.feedback.simulated import mean_gold, preferred, rated, simulated_endpoint
from rlhf.gold.registered import gold_rule
from rlhf.judges.endpoint import Endpoint
from rlhf.judges.preference import Pair, count_places, judge_pairs

RULE_NAME: GoldName = "calibrated_arithmetic"
RULE = gold_rule(RULE_NAME)
RIGHT, HEDGED = "The answer is {} .", "I believe the answer is {} , but please verify ."


def prompt(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What is 3 + {number % 10} ?{' ' * (number // 10)}"}]


def comparison(number: int, first: str, second: str) -> Comparison:
    return Comparison(number, prompt(number), (first, second), ("p", "p"), "at random", ("simulated-1",))


def right(number: int) -> str:
    return RIGHT.format(3 + number % 10)


def says(one: Comparison, error_rate: float = 0.0, guidelines: Guidelines | None = None) -> Level:
    return rated(one, guidelines or Guidelines(), RULE, error_rate, "simulated-1", seed=0)


def test_levels_follow_the_rule():
    much, little = comparison(0, right(0), RIGHT.format(9)), comparison(0, HEDGED.format(3), right(0))
    assert preferred(RULE, much.prompt, much.responses) == 2
    assert [says(one).says for one in (much, little)] == ["A is much better", "B is better"]
    tie = comparison(0, RIGHT.format(8), RIGHT.format(9))
    assert says(tie).prefers == "tie"
    only_two = Guidelines(levels=(Level(says="A", prefers="A"), Level(says="B", prefers="B")))
    drawn = {says(comparison(number, "x", "y"), guidelines=only_two).says for number in range(20)}
    assert drawn == {"A", "B"}, "of two equal ones either, where no tie may be said"


def test_raters_err_as_often_as_is_set_and_each_by_itself():
    asked = [comparison(number, right(number), RIGHT.format(99)) for number in range(1000)]
    wrong = [
        [rated(one, Guidelines(), RULE, 0.2, rater, seed=0).prefers == "B" for one in asked]
        for rater in ("simulated-1", "simulated-2")
    ]
    assert 150 < sum(wrong[0]) < 250
    both = sum(first and second for first, second in zip(*wrong, strict=True))
    assert 15 < both < 75, "0.2 x 0.2 of 1,000"
    assert wrong[0] == [rated(one, Guidelines(), RULE, 0.2, "simulated-1", seed=0).prefers == "B" for one in asked]


def test_mean_gold():
    estimate = mean_gold([comparison(0, right(0), RIGHT.format(9)), comparison(1, right(1), right(1))], RULE_NAME)
    assert estimate.value == 0.5
    assert estimate.low < 0.5 < estimate.high


def judged(tmp_path: Path, config: SimulatedJudgeConfig, both_orders: bool) -> tuple[list[float | None], int]:
    """The probabilities of answers that are better at the first place in every second pair, and ties for a place."""
    pairs = []
    for number in range(100):
        better, worse = right(number), RIGHT.format(99)
        first, second = (better, worse) if number % 2 else (worse, better)
        dialogue = f"User: {prompt(number)[0]['content']}"
        pairs.append(Pair(dialogue, first, second, "Prefer what is right.\n\nAnd what is plain."))
    with simulated_endpoint(config, RULE_NAME, seed=0) as endpoint:
        judgments = judge_pairs(Endpoint(endpoint, tmp_path), pairs, both_orders=both_orders)
    return [one.probability for one in judgments], sum(count_places(judgments).values())


def test_judge(tmp_path: Path):
    sure, places = judged(tmp_path / "sure", SimulatedJudgeConfig(error_rate=0.0), both_orders=True)
    assert sure == [1.0 if number % 2 else 0.0 for number in range(100)]
    assert places == 0
    erring, _ = judged(tmp_path / "erring", SimulatedJudgeConfig(error_rate=0.1), both_orders=False)
    assert {round(probability or 0, 6) for probability in erring} == {0.1, 0.9}
    wrong = sum((probability or 0) > 0.5 for probability in erring[::2])
    wrong += sum((probability or 1) < 0.5 for probability in erring[1::2])
    assert 3 <= wrong <= 20
    biased, places = judged(tmp_path / "biased", SimulatedJudgeConfig(error_rate=0.0, position_bias=0.3), True)
    assert 15 <= places == sum(probability == 0.5 for probability in biased) <= 50
    decided = [(number, probability) for number, probability in enumerate(biased) if probability != 0.5]
    assert all(((probability or 0) > 0.5) is bool(number % 2) for number, probability in decided), "none is wrong"


@pytest.mark.parametrize(
    ("answer", "revised"),
    [
        (RIGHT.format(9), HEDGED.format(9)),
        (HEDGED.format(5), RIGHT.format(5)),
        (RIGHT.format(5), RIGHT.format(5)),
        ("answer 9 is", HEDGED.format(9)),
        ("I do not know", "I do not know"),
    ],
)
def test_critic(tmp_path: Path, answer: str, revised: str):
    asked = [*prompt(2), {"role": "assistant", "content": answer}, {"role": "user", "content": "What is wrong?"}]
    with simulated_endpoint(SimulatedJudgeConfig(error_rate=0.0), RULE_NAME, seed=0) as config:
        endpoint = Endpoint(config, tmp_path)
        critique = endpoint.ask(asked, 100).text
        turns = [{"role": "assistant", "content": critique}, {"role": "user", "content": "Write it anew."}]
        assert endpoint.ask([*asked, *turns], 100).text == revised
    assert ("as it should be" in critique) is (answer == revised)

"""More than noise, or not?"""

import json
import random
from collections.abc import Callable

import pytest
from compared_runs import CONFIG, MakeRun, evaluation

from rlhf.runs.comparison.metrics import Result, compare_results, of_two_intervals, seed_note
from rlhf.runs.comparison.run_view import RunView
from rlhf.runs.listing import MetricValue

Sides = Callable[..., list[RunView]]


def result(found: list[Result], name: str) -> Result:
    return next(one for one in found if one.metric == name)


def test_intervals_of_independent_values_by_hand():
    # Half widths of 0.3 and 0.4 make one of 0.5.
    found = of_two_intervals(MetricValue(1.0, 0.7, 1.3), MetricValue(3.0, 2.6, 3.4))
    assert found == pytest.approx((1.5, 2.5))
    # The lower end takes the second's lower and the first's upper half: 0.3, 0.4; the upper 1.2, 0.5.
    found = of_two_intervals(MetricValue(1.0, 0.5, 1.4), MetricValue(2.0, 1.7, 3.2))
    assert found == pytest.approx((1.0 - 0.5, 1.0 + 1.3))
    assert of_two_intervals(MetricValue(1.0), MetricValue(2.0, 1.0, 3.0)) is None


def test_intervals_of_independent_values_cover_as_often_as_they_say():
    import numpy as np

    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        a, b = rng.normal(0.0, 1.0, 50), rng.normal(0.5, 2.0, 80)
        ends = [(x.mean(), 1.96 * x.std(ddof=1) / len(x) ** 0.5) for x in (a, b)]
        low_high = of_two_intervals(*(MetricValue(mean, mean - half, mean + half) for mean, half in ends))
        assert low_high is not None
        covered += low_high[0] <= 0.5 <= low_high[1]
    assert 925 <= covered <= 975


def test_pairs_see_what_two_intervals_cannot(make_run: MakeRun, sides: Sides):
    rng = random.Random(0)
    prompts = [rng.gauss(0.0, 1.0) for _ in range(200)]
    better = [value + 0.1 + rng.gauss(0.0, 0.1) for value in prompts]
    first = make_run(stages={"evaluation": evaluation(prompts)})
    second = make_run(stages={"evaluation": evaluation(better)})
    found = result(compare_results(*sides(first, second)), "evaluation/policy_gold")
    assert found.difference is not None
    assert (found.difference.noise, found.difference.method, found.difference.better) == (
        "more than noise",
        "pairs",
        True,
    )
    assert found.difference.low is not None
    assert found.difference.high is not None
    assert 0.05 < found.difference.low < 0.1 < found.difference.high < 0.15
    worse = result(compare_results(*sides(second, first)), "evaluation/policy_gold").difference
    assert worse is not None
    assert worse.better is False

    runs = []
    for values in (prompts, better):
        kept = evaluation(values)
        lines = kept["files"]["judgements.jsonl"].splitlines(keepends=True)
        kept["files"]["judgements.jsonl"] = "".join(lines[:32])
        runs.append(make_run(stages={"evaluation": kept}))
    found = result(compare_results(*sides(*runs)), "evaluation/policy_gold")
    assert found.difference is not None
    assert (found.difference.noise, found.difference.method, found.difference.better) == (
        "within noise",
        "intervals",
        None,
    )
    # Its interval stands in the report of the evaluation alone.
    assert found.first is not None
    assert found.first.low is not None


def test_pairs_of_wins(make_run: MakeRun, sides: Sides):
    first = make_run(stages={"evaluation": evaluation([1.0, 0.0, -1.0, 1.0])})
    second = make_run(stages={"evaluation": evaluation([1.0, 1.0, 0.0, 1.0])})
    found = result(compare_results(*sides(first, second)), "evaluation/win_rate")
    assert found.difference is not None
    assert found.difference.value == pytest.approx(0.25)
    assert found.difference.method == "pairs"


def test_without_a_rule_the_same_reward_model_says_who_wins(make_run: MakeRun, sides: Sides):
    def run(values: list[float]) -> str:
        judged = evaluation(values)
        rows = judged["files"]["judgements.jsonl"]
        judged["files"]["judgements.jsonl"] = rows.replace("gold", "selection_reward_model")
        judged["metrics"] = {name: one for name, one in judged["metrics"].items() if "gold" not in name}
        return make_run(stages={"reward_model": {}, "evaluation": judged})

    found = result(compare_results(*sides(run([1.0, -1.0, 1.0]), run([1.0, 1.0, 1.0]))), "evaluation/win_rate")
    assert found.difference is not None
    assert (found.difference.value, found.difference.method) == (pytest.approx(1 / 3), "pairs")


def test_win_rates_of_two_judges_are_not_compared(make_run: MakeRun, sides: Sides):
    """Runs of long ago were judged by the reward model that PPO climbed."""

    def run(judge: str) -> str:
        judged = evaluation([1.0, -1.0, 1.0])
        judged["metrics"] = {name: one for name, one in judged["metrics"].items() if "gold" not in name}
        judged["files"]["evaluation.json"] = json.dumps({"judge": judge})
        judged["files"]["judgements.jsonl"] = judged["files"]["judgements.jsonl"].replace("gold", judge)
        return make_run(stages={"reward_model": {}, "evaluation": judged})

    found = result(compare_results(*sides(run("reward_model"), run("selection_reward_model"))), "evaluation/win_rate")
    assert found.difference is not None
    assert found.difference.noise == "other judge"
    same = result(compare_results(*sides(run("reward_model"), run("reward_model"))), "evaluation/win_rate")
    assert same.difference is not None
    assert (same.difference.noise, same.difference.method) == ("equal", "pairs")


def test_win_rates_by_two_llm_judges_are_not_compared(make_run: MakeRun, sides: Sides):
    def run(model: str, sha256: str) -> str:
        judged = evaluation([1.0, -1.0, 1.0])
        judged["metrics"] |= {"evaluation/judge_win_rate": 0.6}
        by = {"model": model, "criteria": {"name": "criteria.yaml", "sha256": sha256}}
        judged["files"]["evaluation.json"] = json.dumps({"llm_judge": by})
        return make_run(stages={"reward_model": {}, "evaluation": judged})

    def noise(first: str, second: str) -> str:
        found = result(compare_results(*sides(first, second)), "evaluation/judge_win_rate")
        assert found.difference is not None
        return found.difference.noise

    assert noise(run("m", "1"), run("m", "1")) == "equal"
    assert noise(run("m", "1"), run("n", "1")) == noise(run("m", "1"), run("m", "2")) == "other judge"


def test_other_prompts_are_no_pairs(make_run: MakeRun, sides: Sides):
    other = evaluation([1.0, 0.0, 1.0])
    other["files"]["judgements.jsonl"] = other["files"]["judgements.jsonl"].replace("question 1", "question 9")
    runs = make_run(stages={"evaluation": evaluation([1.0, 0.0, 1.0])}), make_run(stages={"evaluation": other})
    assert {one.difference.method for one in compare_results(*sides(*runs)) if one.difference} == {
        "intervals",
        None,
    } - {None}


def test_equal_and_without_an_interval_and_absent(make_run: MakeRun, sides: Sides):
    def run(loss: float, *more: str) -> str:
        return make_run(stages={"sft": {"metrics": {"sft/validation_loss": loss}}, **{name: {} for name in more}})

    found = result(compare_results(*sides(run(0.5), run(0.5))), "sft/validation_loss")
    assert found.difference is not None
    assert (found.difference.noise, found.difference.better) == ("equal", None)
    found = result(compare_results(*sides(run(0.5), run(0.4))), "sft/validation_loss")
    assert found.difference is not None
    assert (found.difference.noise, found.difference.better) == ("no interval", None)
    found = result(compare_results(*sides(run(0.5), make_run())), "sft/validation_loss")
    assert (found.first, found.second, found.difference) == (MetricValue(0.5), None, None)


def test_scores_of_two_reward_models_are_not_compared(make_run: MakeRun, sides: Sides):
    def run(made: str, gold: bool) -> str:
        metrics = {"evaluation/policy_score": 0.5, "evaluation/win_rate": 0.6}
        if gold:
            metrics["evaluation/policy_gold"] = 0.1
        return make_run(stages={"reward_model": {"made": made}, "evaluation": {"metrics": metrics}})

    def noises(first: str, second: str) -> dict[str, str]:
        return {one.metric: one.difference.noise for one in compare_results(*sides(first, second)) if one.difference}

    same = noises(run("x", True), run("x", True))
    assert "other judge" not in same.values()
    other = noises(run("x", True), run("y", True))
    assert other["evaluation/policy_score"] == "other judge"
    assert other["evaluation/win_rate"] == "equal"
    assert noises(run("x", False), run("y", False))["evaluation/win_rate"] == "other judge"


def test_what_the_intervals_do_not_cover_is_said(make_run: MakeRun, sides: Sides):
    first, second, third = sides(make_run(), make_run(), make_run(config=CONFIG | {"seed": 1}))
    assert "All runs have the seed 0" in seed_note([first, second])
    assert "not what another seed would have trained" in seed_note([first, second])
    assert "The seeds differ (0, 1)" in seed_note([first, third])

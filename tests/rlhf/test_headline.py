"""The verdict of a run, in the words that stand everywhere."""

import pytest

from rlhf.headline import FITNESS, KEPT_SFT, figure, verdict


def metrics(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: value, f"{name}_low": low, f"{name}_high": high, "policy/chosen_update": 8}


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (
            metrics("evaluation/gold_gain", 0.36, 0.339, 0.381),
            "The policy is better than the SFT policy: its gain in gold reward is +0.360 (+0.339 to +0.381).",
        ),
        (
            metrics("evaluation/win_rate", 0.4, 0.35, 0.49),
            "The policy is worse than the SFT policy: its win rate is 40.0% (35.0% to 49.0%).",
        ),
        (
            metrics("evaluation/win_rate", 0.56, 0.49, 0.63),
            "The policy cannot be told from the SFT policy: its win rate is 56.0% (49.0% to 63.0%).",
        ),
        (metrics("evaluation/win_rate", 0.9, 0.8, 0.95) | {"policy/chosen_update": 0}, KEPT_SFT),
        ({"policy/chosen_update": 8, "evaluation/win_rate": 0.9}, None),
        ({}, None),
    ],
)
def test_the_verdict_goes_by_the_interval(of: dict[str, float], said: str | None):
    assert verdict(of) == said


def test_the_gold_rule_goes_before_a_reward_model():
    both = metrics("evaluation/win_rate", 0.9, 0.8, 0.95) | metrics("evaluation/gold_gain", -0.1, -0.2, -0.05)
    assert (
        verdict(both)
        == "The policy is worse than the SFT policy: its gain in gold reward is -0.100 (-0.200 to -0.050)."
    )


def test_a_figure_without_an_interval():
    assert figure({"evaluation/kl": 1.2345}, "evaluation/kl", "{:.2f}") == ("1.23", "")


@pytest.mark.parametrize(
    ("fitness", "first"),
    [("unfit", "The reward models are unfit"), ("unknown", "Whether the reward models are fit is not known"),
     ("weak", "The policy is better"), ("fit", "The policy is better")],
)  # fmt: skip
def test_reward_models_in_doubt_stand_first(fitness: str, first: str):
    said = verdict(metrics("evaluation/gold_gain", 0.36, 0.339, 0.381) | {"reward_audit/fitness": FITNESS[fitness]})
    assert said is not None
    assert said.startswith(first)
    assert said.endswith("its gain in gold reward is +0.360 (+0.339 to +0.381).")

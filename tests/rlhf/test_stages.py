"""The names of a run's attempts at its stages."""

import pytest

from rlhf.config.pipeline import PipelineConfig
from rlhf.stages import attempt_names, in_order

ASKED = {"simulated": {}}
REVISION = {"prompts": "p.jsonl", "constitution": "c.yaml"}
ENDS = ["evaluation", "model_card"]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ["data", "sft", "reward_model", "reward_audit", "policy"]),
        (
            {"rounds": [{"method": "ppo"}], "start": "previous"},
            ["data", "sft", "reward_model", "reward_audit", "policy.1", "policy"],
        ),
        ({"feedback": ASKED}, ["data.0", "sft", "feedback", "data", "reward_model", "reward_audit", "policy"]),
        (
            {"feedback": ASKED | {"choose": "close"}, "revision": REVISION},
            [
                *("data.0", "sft.0", "revision", "data.1", "sft", "reward_model.0", "reward_audit.0"),
                *("feedback", "data", "reward_model", "reward_audit", "policy"),
            ],
        ),
        (
            {"rounds": [{"method": "ppo"}], "start": "previous", "feedback": ASKED},
            [
                *("data.0", "sft", "reward_model.1", "reward_audit.1", "policy.1"),
                *("feedback", "data", "reward_model", "reward_audit", "policy"),
            ],
        ),
    ],
)
def test_attempts_before_the_last_are_numbered(settings: dict[str, object], names: list[str]):
    recipe = PipelineConfig.model_validate({"data": {"embedded": "calibrated_arithmetic"}, **settings})
    assert attempt_names(recipe) == [*names, *ENDS]
    assert sorted(in_order(names)) == sorted(names), "all of them are known"

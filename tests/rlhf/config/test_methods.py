"""A recipe has the section of its method, and no other."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from rlhf.config.flat import flatten, policy_setting
from rlhf.config.loading import load_config
from rlhf.config.pipeline import METHOD_SECTIONS, METHOD_TITLES, PipelineConfig
from rlhf.config.policy import RewardSourceConfig
from rlhf.config.preference import PREFERENCE_METHODS
from rlhf.config.rl import ROLLOUT_METHODS
from rlhf.errors import ConfigError
from rlhf.planning.method import described_method

GROUPS = {"num_responses_per_prompt": 4}
METHODS = [*ROLLOUT_METHODS, *PREFERENCE_METHODS, "best_of_n"]


def recipe(method):
    has_groups = method in ROLLOUT_METHODS and ROLLOUT_METHODS[method].has_groups
    critic = {} if method == "ppo" else {"num_critic_warmup_updates": 2}
    return PipelineConfig(method=method, **({"rl": GROUPS | critic} if has_groups else {}))


@pytest.mark.parametrize("method", METHODS)
def test_the_methods_own_section_is_there_and_no_other(method):
    config = recipe(method)
    assert METHOD_TITLES[method] in described_method(config)
    there = [name for name in ("rl", "preference", "best_of_n") if getattr(config, name) is not None]
    assert there == [METHOD_SECTIONS[method]]
    assert config.policy is getattr(config, there[0])
    dumped = config.model_dump(mode="json")
    assert PipelineConfig.model_validate(dumped) == config
    assert policy_setting(flatten(dumped), "max_response_tokens", 0) == config.policy.max_response_tokens == 16
    rewards = (RewardSourceConfig(weight=2.0),)
    assert config.with_policy(rewards=rewards).policy.rewards == rewards


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        (
            "method: dpo\nseed: 1\nrl: {num_updates: 3}\n",
            ":3: rl: ",
            "in preference; drop the section",
        ),
        ("preference: {beta: 0.2}\n", ":1: preference: ", "this section is for method: dpo, ipo, kto, simpo"),
        ("method: kto\nbest_of_n:\n  num_samples: 4\n", ":2: best_of_n: ", "this section is for method: best_of_n, "),
        ("method: kto\npreference:\n  beta: -1\n", ":3: preference.beta: ", "expected a number above 0"),
        ("method: dqo\n", ":1: method: ", "expected one of ppo"),
        ("method: dpo\npreference: {alarms: {fatal: [none]}}\n", ":2: ", "expected one of overoptimization"),
        ("method: best_of_n\nbest_of_n: {alarms: {fatal: [none]}}\n", ":2: ", "fatal names none"),
        ("method: dpo\npreference: {target_margin: 1.0}\n", "", "DPO has no use for it"),
        ("method: dpo\ncompute: {num_processes: 2}\n", "", "DPO trains in one process"),
        (
            "method: dpo\npreference: {max_response_tokens: 96}\n",
            "",
            "preference.max_response_tokens (96) leaves",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line(text, where, what, tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert f"recipe.yaml{where}" in str(error.value)
    assert what in str(error.value)


def test_flags_reach_into_the_methods_section():
    config = load_config(None, {"method": "simpo", "preference.target_margin": "0.5"})
    assert config.preference.target_margin == 0.5
    with pytest.raises(ConfigError, match=r"--preference\.beta: this section is for method"):
        load_config(None, {"preference.beta": "0.5"})


def test_a_section_may_be_settings_already():
    given = PipelineConfig(method="dpo").preference
    assert PipelineConfig(method="ipo", preference=given).preference == given
    with pytest.raises(ValidationError, match="this section is for method"):
        PipelineConfig(preference=given)

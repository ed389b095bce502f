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


ROUNDS = """
method: ppo
start: previous
rounds:
  - {method: best_of_n, best_of_n: {num_samples: 4}}
  - {method: best_of_n, best_of_n: {num_samples: 2, max_response_tokens: 24}}
"""


def test_a_recipe_has_rounds_before_its_own_method(tmp_path):
    (tmp_path / "recipe.yaml").write_text(ROUNDS)
    config = load_config(tmp_path / "recipe.yaml")
    assert PipelineConfig.model_validate(config.model_dump(mode="json")) == config
    first, second, last = config.per_round
    assert [recipe.method for recipe in (first, second, last)] == ["best_of_n", "best_of_n", "ppo"]
    assert [recipe.policy.max_response_tokens for recipe in (first, second, last)] == [16, 24, 16]
    assert config.max_response_tokens == 24
    assert (first.rl, first.start, last.start) == (None, "sft", "previous")
    assert first.rounds == last.rounds == ()
    assert list(config.sections) == ["rounds.0.best_of_n", "rounds.1.best_of_n", "rl"]
    weighted = config.with_sources(lambda source: source.model_copy(update={"weight": 2.0}))
    assert [policy.rewards[0].weight for policy in weighted.sections.values()] == [2.0, 2.0, 2.0]
    assert weighted.rewards == (RewardSourceConfig(weight=2.0),)
    assert described_method(config).startswith("best-of-n: the best of 4 responses")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start: previous\n", "start is previous, but no round comes before it"),
        (
            "rounds: [{method: ppo, start: previous}]\nstart: previous\n",
            r"rounds\[0\]: start is previous, but no round",
        ),
        ("rounds: [{method: ppo}]\n", r"so the policy of rounds\[0\] would be trained and ignored"),
        (
            "rounds: [{method: best_of_n}, {method: ppo}]\nstart: previous\n",
            r"rounds\[1\]: start is sft, so the policy of rounds\[0\] would be trained and ignored",
        ),
        ("rounds: [{}]\nstart: previous\n", r"rounds\[0\].method: got {}, expected one of ppo"),
        (
            "rounds: [{method: dpo, rl: {num_updates: 3}}]\nstart: previous\n",
            r":1: rounds\[0\].rl: this section is for method: ppo",
        ),
        (
            "rounds: [{method: dpo, preference: {target_margin: 1.0}}]\nstart: previous\n",
            r":1: rounds\[0\]: preference.target_margin is set, but DPO has no use for it",
        ),
        (
            "rounds: [{method: ppo, rl: {max_response_tokens: 96}}]\nstart: previous\n",
            r"rounds\[0\]: rl.max_response_tokens \(96\) leaves no room",
        ),
        (
            "rounds: [{method: dpo}]\nmethod: dpo\nstart: previous\ncompute: {num_processes: 2}\n",
            r"rounds\[0\]: compute.num_processes is 2, but DPO trains in one process",
        ),
        (
            "rounds: [{method: dpo}]\nstart: previous\nrl: {sharing: adapters, lora: {rank: 4}}\n"
            "reward_model: {lora: {rank: 4}}\n",
            "rl.sharing is adapters, where the reward models are adapters over the SFT policy, but start is previous",
        ),
    ],
)
def test_rounds_that_cannot_work_or_would_be_ignored_are_refused(text, message, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "recipe.yaml")


def test_a_round_of_best_of_n_counts_by_its_samples_too():
    rounds = ({"method": "best_of_n"}, {"method": "dpo"})
    PipelineConfig.model_validate({"method": "best_of_n", "rounds": rounds})

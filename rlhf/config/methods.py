"""A recipe with other methods in its method's place: the same data, SFT and reward models, at equal episodes."""

from collections.abc import Sequence
from typing import cast, get_args

from rlhf.config.pipeline import Method, PipelineConfig
from rlhf.config.rl import ROLLOUT_METHODS, RLConfig
from rlhf.errors import ConfigError, nearest

GROUP_SIZE = 4
"""Responses to a prompt of a method that compares them, where the recipe has fewer."""
_OF_PPO = ("value_learning_rate", "num_critic_warmup_updates", "gamma", "gae_lambda", "value_clip_range", "value_coef")


def choose_methods(methods: Sequence[str]) -> tuple[Method, ...]:
    """The methods of a comparison.

    Raises:
        ConfigError: one is unknown, or given twice, or there are fewer than two.
    """
    for method in methods:
        if method not in get_args(Method):
            raise ConfigError(f"{method} is not a method; the nearest known one is {nearest(method, get_args(Method))}")
        if methods.count(method) > 1:
            raise ConfigError(f"the method {method} is given twice; give every method once")
    if len(methods) < 2:
        raise ConfigError(f"a comparison needs two methods or more, and {len(methods)} is given; add another one")
    return tuple(cast("Method", method) for method in methods)


def with_method(config: PipelineConfig, method: str) -> PipelineConfig:
    """The recipe with a method in its own one's place; its own method leaves it as it is.

    Methods that learn from rollouts take as many episodes as the recipe's own. What the method has no use for goes back
    to its default.

    Raises:
        ConfigError: the method cannot work with what the recipe says.
    """
    if method == config.method:
        return config
    values = config.rl.model_dump()
    defaults = RLConfig().model_dump()
    chosen = ROLLOUT_METHODS[method]
    if not chosen.has_critic:
        values |= {name: defaults[name] for name in _OF_PPO} | {"side_by_side": False}
        values["sharing"] = "none" if config.rl.sharing == "trunk" else config.rl.sharing
    if chosen.has_groups:
        values["num_responses_per_prompt"] = max(GROUP_SIZE, config.rl.num_responses_per_prompt)
    if chosen.kl_in is None:
        values |= {name: defaults[name] for name in ("kl_in", "clip_range", "target_kl", "kl_target", "kl_horizon")}
    else:
        values["beta"] = defaults["beta"]
    try:
        return PipelineConfig.model_validate(config.model_dump() | {"method": method, "rl": values})
    except ValueError as error:
        raise ConfigError(f"{method}: {error}") from None

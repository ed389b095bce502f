"""A recipe with other methods in its method's place: the same data, SFT and reward models, at equal episodes."""

from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

from rlhf.config.best_of_n import BestOfNConfig
from rlhf.config.pipeline import METHOD_SECTIONS, Method, PipelineConfig
from rlhf.config.policy import PolicyConfig
from rlhf.config.preference import OF_SOME, PreferenceConfig
from rlhf.config.rl import ALARMS_OF_A_CRITIC, OF_A_CRITIC, OF_A_PENALTY, ROLLOUT_METHODS, RLConfig
from rlhf.errors import ConfigError, nearest

GROUP_SIZE = 4
"""Responses to a prompt of a method that compares them, where the recipe has fewer."""
_SECTIONS: Mapping[str, type[PolicyConfig]] = {
    "rl": RLConfig,
    "preference": PreferenceConfig,
    "best_of_n": BestOfNConfig,
}


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


def with_method(config: PipelineConfig, method: Method) -> PipelineConfig:
    """The recipe with a method in its own one's place; its own method leaves it as it is.

    What all methods have stays as the recipe says. Methods that learn from rollouts take as many episodes as the
    recipe's own, and what they have no use for goes back to its default. Another section has its defaults beside that.

    Raises:
        ConfigError: the method cannot work with what the recipe says.
    """
    if method == config.method:
        return config
    section = METHOD_SECTIONS[method]
    kind = _SECTIONS[section]
    same_kind = section == config.section
    kept = kind.model_fields if same_kind else PolicyConfig.model_fields.keys() - {"micro_batch_size"}
    values = {name: value for name, value in config.policy.model_dump().items() if name in kept}
    if method in ROLLOUT_METHODS:
        values |= _for_rollouts(method, values)
    elif same_kind:
        defaults = kind().model_dump()
        values |= {name: defaults[name] for name in defaults.keys() & {*OF_SOME, "beta"}}
    others = config.model_dump(exclude={*_SECTIONS, "method"})
    try:
        return PipelineConfig.model_validate(others | {"method": method, section: values})
    except ValueError as error:
        raise ConfigError(f"{method}: {error}") from None


def _for_rollouts(method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a method that learns from rollouts has otherwise than another one."""
    chosen, defaults = ROLLOUT_METHODS[method], RLConfig().model_dump()
    changed: dict[str, Any] = {}
    if not chosen.has_critic:
        changed |= {name: defaults[name] for name in OF_A_CRITIC}
        changed["sharing"] = "none" if values.get("sharing") == "trunk" else values.get("sharing", "none")
        of_critic = {name: defaults["alarms"][name] for name in ALARMS_OF_A_CRITIC}
        changed["alarms"] = {**values.get("alarms", defaults["alarms"]), **of_critic}
    if chosen.has_groups:
        changed["num_responses_per_prompt"] = max(GROUP_SIZE, values.get("num_responses_per_prompt", 1))
    if chosen.kl_in is None:
        return changed | {name: defaults[name] for name in OF_A_PENALTY}
    return changed | {"beta": defaults["beta"]}

"""What was called otherwise in the releases before, so that their recipes and their runs are read as they were meant.

Until 0.1 the stage that trains the policy was `ppo`, like its section of a recipe and its metrics.
"""

import logging
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)

_RENAMED = "%s is called %s now; rename it, for the next release does not read it"
_SECTIONS = {"ppo": "rl"}
_STAGES = {"ppo": "policy"}
_STAGE_TAG = "rlhf.stage"
_TAGS_BY_STAGE = ("rlhf.run.", "rlhf.fingerprint.", "rlhf.used.")
_METRICS = (("ppo/", "policy/"), ("group/ppo/", "group/policy/"))


def current_section(name: str) -> str:
    """The dotted name of a setting today."""
    section, dot, rest = name.partition(".")
    return f"{_SECTIONS.get(section, section)}{dot}{rest}"


def current_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded recipe's sections under their names of today."""
    return {_SECTIONS.get(name, name): value for name, value in settings.items()}


def given_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a recipe that somebody gives, who is told.

    Raises:
        ValueError: a section stands there under both names.
    """
    for earlier, current in _SECTIONS.items():
        if earlier in settings and current in settings:
            raise ValueError(f"{earlier} and {current} are one section, which is called {current} now; drop {earlier}")
        if earlier in settings:
            logger.warning(_RENAMED, f"the section {earlier} of a recipe", current)
    return current_settings(settings)


def given_flag(argument: str) -> str:
    """A flag of the command line by its name of today; who gives another one is told."""
    section, dot, rest = argument.removeprefix("--").partition(".")
    if not (argument.startswith("--") and dot and section in _SECTIONS):
        return argument
    current = f"--{_SECTIONS[section]}.{rest}"
    logger.warning(_RENAMED, argument.partition("=")[0], current.partition("=")[0])
    return current


def recorded_setting(name: str, settings: Mapping[str, Any]) -> str:
    """The dotted name that a setting has in a recorded recipe."""
    return name if name.partition(".")[0] in settings else earlier_section(name)


def earlier_section(name: str) -> str:
    """The dotted name of a setting before."""
    section, dot, rest = name.partition(".")
    return f"{next((old for old, new in _SECTIONS.items() if new == section), section)}{dot}{rest}"


def current_stage(name: str) -> str:
    """The name of a stage today."""
    return _STAGES.get(name, name)


def earlier_stage(name: str) -> str:
    """The name of a stage before."""
    return next((earlier for earlier, current in _STAGES.items() if current == name), name)


def current_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of a run, with stages by their names of today."""
    return {_current_tag(name): current_stage(value) if name == _STAGE_TAG else value for name, value in tags.items()}


def current_metric(name: str) -> str:
    """The name of a metric today."""
    return next((current + name.removeprefix(old) for old, current in _METRICS if name.startswith(old)), name)


def metric_names(name: str) -> tuple[str, ...]:
    """The names under which a metric of today may be recorded."""
    return (name, *(old + name.removeprefix(current) for old, current in _METRICS if name.startswith(current)))


def _current_tag(name: str) -> str:
    for prefix in _TAGS_BY_STAGE:
        if name.startswith(prefix):
            return prefix + current_stage(name.removeprefix(prefix))
    return name

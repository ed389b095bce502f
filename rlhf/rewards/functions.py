"""Reward functions that installed packages offer, found by name. Only `load_function` imports a package's code.

A person who can submit a form must not be able to name code to import, so a recipe names an entry point, and what is
installed decides whose code that is.
"""

from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlhf.config.policy import RewardSourceConfig
from rlhf.errors import ConfigError

GROUP = "rlhf.rewards"
"""The entry-point group in which installed packages offer reward functions."""


def check_installed(sources: Sequence[RewardSourceConfig]) -> None:
    """Refuse a recipe whose functions are not there, before anything is computed.

    Raises:
        ConfigError: no package, or more than one, offers a function of that name, or its module is missing.
    """
    for source in sources:
        if source.kind == "function":
            source_files(find_function(source.name))


def find_function(name: str) -> EntryPoint:
    """The one entry point of that name.

    Raises:
        ConfigError: there is none, or more than one.
    """
    offered = entry_points(group=GROUP)
    points = list(offered.select(name=name))
    if not points:
        names = ", ".join(sorted({point.name for point in offered})) or "none at all"
        raise ConfigError(
            f"rl.rewards: no installed package offers a reward function {name!r} in the entry-point group {GROUP}; "
            f"there are: {names}"
        )
    if len(points) > 1:
        offers = ", ".join(sorted(f"{point.value} ({distribution(point)})" for point in points))
        raise ConfigError(
            f"rl.rewards: the reward function {name!r} is offered more than once in the entry-point group {GROUP}: "
            f"{offers}; uninstall or rename all but one"
        )
    return points[0]


def load_function(name: str) -> Callable[..., Any]:
    """Import a reward function.

    Raises:
        ConfigError: it is not there, cannot be imported, or cannot be called.
    """
    point = find_function(name)
    try:
        function: Callable[..., Any] = point.load()
    except Exception as error:
        raise ConfigError(
            f"rl.rewards: the reward function {name!r}, {point.value} of {distribution(point)}, cannot be imported: "
            f"{type(error).__name__}: {error}; repair the package"
        ) from error
    if not callable(function):
        raise ConfigError(
            f"rl.rewards: the reward function {name!r}, {point.value} of {distribution(point)}, is "
            f"{type(function).__name__} and cannot be called; let the entry point name a function"
        )
    return function


def distribution(point: EntryPoint) -> str:
    """Name and version of the package that offers it: `my-rewards==1.2`."""
    return f"{point.dist.name}=={point.dist.version}" if point.dist else "an unknown package"


def source_files(point: EntryPoint) -> dict[str, Path]:
    """The files that the function's code is in, by their paths within its package; nothing of it is imported.

    They are all Python files of the outermost package that is no namespace, or the one file of a module in no package.
    What that package imports from others is not seen.

    Raises:
        ConfigError: there is no such module.
    """
    specs = _specs(point)
    located = [spec for spec in specs if spec.has_location and spec.origin]
    if not located or located[-1] is not specs[-1]:
        raise _no_module(point)
    files = {Path(str(specs[-1].origin)).name: Path(str(specs[-1].origin))}
    for folder in located[0].submodule_search_locations or ():
        files |= {path.relative_to(folder).as_posix(): path for path in sorted(Path(folder).rglob("*.py"))}
    return files


def _specs(point: EntryPoint) -> list[ModuleSpec]:
    """Where `a`, `a.b` and `a.b.c` are, for a function in `a.b.c`. `find_spec` alone would import `a` and `a.b`."""
    first, *others = point.module.split(".")
    specs, name = [find_spec(first)], first
    for part in others:
        name = f"{name}.{part}"
        folders = specs[-1].submodule_search_locations if specs[-1] else None
        specs.append(PathFinder.find_spec(name, list(folders)) if folders else None)
    existing = [spec for spec in specs if spec is not None]
    if len(existing) < len(specs):
        raise _no_module(point)
    return existing


def _no_module(point: EntryPoint) -> ConfigError:
    return ConfigError(
        f"rl.rewards: {distribution(point)} says that the reward function {point.name!r} is {point.value}, but there "
        f"is no file of a module {point.module}; install the package again"
    )

"""Reward functions that installed packages offer, found by name. A package's code is imported by `load`, not before.

Whoever can submit a form must not be able to name code to import, so a recipe names an entry point, and what is
installed decides whose code that is.
"""

from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from rlhf.config import RewardSourceConfig
from rlhf.conversations import Conversation
from rlhf.errors import ConfigError

GROUP = "rlhf.rewards"
"""The entry-point group in which installed packages offer reward functions."""

RewardFunction = Callable[[Sequence[Conversation], Sequence[str]], Iterable[float]]
"""Takes prompts and the texts of their responses, and returns a finite number for each."""


def check_installed(sources: Sequence[RewardSourceConfig]) -> None:
    """Refuse a recipe whose functions are not there, before anything is computed.

    Raises:
        ConfigError: no package, or more than one, offers a function of that name, or its module is missing.
    """
    for source in sources:
        if source.kind == "function":
            source_files(find(source.name))


def find(name: str) -> EntryPoint:
    """The one entry point of that name.

    Raises:
        ConfigError: there is none, or more than one.
    """
    offered = entry_points(group=GROUP)
    found = list(offered.select(name=name))
    if not found:
        there = ", ".join(sorted({point.name for point in offered})) or "none at all"
        raise ConfigError(
            f"ppo.rewards: no installed package offers a reward function {name!r} in the entry-point group {GROUP}; "
            f"there are: {there}"
        )
    if len(found) > 1:
        offers = ", ".join(sorted(f"{point.value} ({distribution(point)})" for point in found))
        raise ConfigError(
            f"ppo.rewards: the reward function {name!r} is offered more than once in the entry-point group {GROUP}: "
            f"{offers}; uninstall or rename all but one"
        )
    return found[0]


def load(name: str) -> RewardFunction:
    """Import a reward function.

    Raises:
        ConfigError: it is not there, cannot be imported, or cannot be called.
    """
    point = find(name)
    try:
        function: RewardFunction = point.load()
    except Exception as error:
        raise ConfigError(
            f"ppo.rewards: the reward function {name!r}, {point.value} of {distribution(point)}, cannot be imported: "
            f"{type(error).__name__}: {error}; mend the package"
        ) from error
    if not callable(function):
        raise ConfigError(
            f"ppo.rewards: the reward function {name!r}, {point.value} of {distribution(point)}, is "
            f"{type(function).__name__} and cannot be called; let the entry point name a function"
        )
    return function


def distribution(point: EntryPoint) -> str:
    """Name and version of the package that offers it: `my-rewards==1.2`."""
    return f"{point.dist.name}=={point.dist.version}" if point.dist else "an unknown package"


def source_files(point: EntryPoint) -> dict[str, Path]:
    """The files that the function's code is in, by their paths within its package; the package is not imported.

    They are all Python files of the innermost package that is no namespace, or the one file of a module without a
    package. What that package imports from others is not seen.

    Raises:
        ConfigError: the package has no such module.
    """
    top: ModuleSpec | None = None
    spec: ModuleSpec | None = None
    name = ""
    for part in point.module.split("."):
        name = f"{name}.{part}".lstrip(".")
        parent = spec
        spec = PathFinder.find_spec(name, _folders(parent)) if parent else find_spec(name)
        if spec is None or (parent and not _folders(parent)):
            raise ConfigError(
                f"ppo.rewards: {distribution(point)} says that the reward function {point.name!r} is {point.value}, but "
                f"there is no module {name}; install the package again"
            )
        top = top or (spec if spec.has_location else None)
    assert spec is not None, "a module's name has at least one part"
    files = {Path(file).name: Path(file) for file in (spec.origin,) if spec.has_location and file}
    for folder in _folders(top):
        files |= {path.relative_to(folder).as_posix(): path for path in sorted(Path(folder).rglob("*.py"))}
    return files


def _folders(spec: ModuleSpec | None) -> list[str]:
    """Where a package's modules are; none of what is no package."""
    return list(spec.submodule_search_locations or ()) if spec else []

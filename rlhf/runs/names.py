"""Names of runs: the recipe, what was set otherwise than there, and the seed, as in `demo, kl_coef 0.05, seed 1`.

Prefect and MLflow bear the same name. Where settings differ names do, unless what differs does not fit.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from rlhf.config.flat import flatten
from rlhf.config.loading import load_config, settings
from rlhf.config.pipeline import METHOD_SECTIONS, PipelineConfig
from rlhf.config.recipes import recipes
from rlhf.errors import ConfigError

MAX_LENGTH = 60
"""Characters of a name, unless the recipe's name and one setting are longer."""
_MAX_VALUE_LENGTH = 24
_IN_ALL_NAMES = ("name", "seed")
# Brackets and quotation marks of lists; and whatever a page or a terminal may read as its own.
_LEFT_OUT = re.compile(r"[^\w ./:+,=-]")
_recipe_file: ContextVar[Path | None] = ContextVar("recipe_file", default=None)


@contextmanager
def started_from(file: Path | None) -> Iterator[None]:
    """Within the block a recipe that is not in configs/ is the one of this file."""
    token = _recipe_file.set(file)
    try:
        yield
    finally:
        _recipe_file.reset(token)


def run_name(config: PipelineConfig) -> str:
    """The name of a pipeline run."""
    return _name(config, f"seed {config.seed}")


def group_name(config: PipelineConfig, seeds: Sequence[int]) -> str:
    """The name of a group of seeds."""
    return _name(config, f"{len(seeds)} seeds from {seeds[0]}")


def methods_name(config: PipelineConfig, methods: Sequence[str], seeds: Sequence[int]) -> str:
    """The name of a comparison of methods."""
    return f"{config.name}, {' against '.join(methods)}, {len(seeds)} seeds from {seeds[0]}"


def _name(config: PipelineConfig, seeds: str) -> str:
    changes = list(_changes(config))
    name = ", ".join([config.name, *changes, seeds])
    shown = len(changes)
    while len(name) > MAX_LENGTH and shown > 1:
        shown -= 1
        name = ", ".join([config.name, *changes[:shown], f"and {len(changes) - shown} more", seeds])
    return name


def _changes(config: PipelineConfig) -> Iterator[str]:
    """Settings that are not the recipe's, by the last part of their names where no other setting has the same."""
    recipe = _recipe_of(config)
    if recipe is None:
        return
    others = {*METHOD_SECTIONS.values()} - {config.section}
    ends = Counter(
        name.rpartition(".")[2]
        for name, setting in settings().items()
        if setting.kind != "section" and name.partition(".")[0] not in others
    )
    of_recipe = flatten(recipe.model_dump(mode="json"))
    for name, value in flatten(config.model_dump(mode="json")).items():
        if name not in _IN_ALL_NAMES and (name not in of_recipe or of_recipe[name] != value):
            end = name.rpartition(".")[2]
            yield f"{end if ends[end] <= 1 else name} {_shown(value)}"


def _recipe_of(config: PipelineConfig) -> PipelineConfig | None:
    """The recipe in configs/ that bears this name, else the file that the command line was given; None without."""
    for file in (recipes().get(config.name), _recipe_file.get()):
        with suppress(ConfigError):
            if file is not None and file.is_file():
                return load_config(file)
    return None


def _shown(value: object) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    # What follows a colon and a space in the name of a flow run is how it ended.
    plain = " ".join(_LEFT_OUT.sub("", text).split()).replace(": ", ":")
    return plain if len(plain) <= _MAX_VALUE_LENGTH else f"{plain[: _MAX_VALUE_LENGTH - 3]}..."

"""A recipe as a file: YAML with a comment behind each setting that has a reason."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import yaml

from rlhf.planning.recommend import Choice


def recipe_text(name: str, choices: Sequence[Choice], head: Sequence[str]) -> str:
    """The text of a recipe.

    Args:
        name: of the recipe.
        choices: settings, those of a section next to one another.
        head: lines of the comment at the top.
    """
    lines = [f"# {line}" for line in head] + [f"name: {_written(name)}"]
    for section, settings in groupby(choices, lambda choice: choice.name.partition(".")[0]):
        lines.append(f"{section}:")
        for choice in settings:
            comment = f"  # {choice.reason}" if choice.reason else ""
            lines.append(f"  {choice.name.partition('.')[2]}: {_written(choice.value)}{comment}")
    return "\n".join(lines) + "\n"


def _written(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n")
    return text.removesuffix("\n...")

"""Seeds of a recipe that is run several times, so that there is an interval over seeds."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rlhf.config.base import NumSeeds, Seed
from rlhf.errors import ConfigError

DEFAULT_NUM_SEEDS = 5
"""Number of seeds where a person asks for several and does not say how many."""
_WHOLE_NUMBER = re.compile(r"\s*(-?[0-9]{1,15})\s*")


def choose_seeds(first: int, seeds: Sequence[int] | None = None, num_seeds: int | None = None) -> tuple[int, ...]:
    """The seeds of a group.

    Args:
        first: the recipe's seed, the first of the group where only a number is given.
        seeds: the seeds in the order in which they are run; None or empty where there is no list.
        num_seeds: number of seeds; None where it is not given. Without both arguments it is `DEFAULT_NUM_SEEDS`.

    Raises:
        ConfigError: both are given; a seed is given twice or is out of range; or there are too few or too many.
    """
    if seeds and num_seeds is not None:
        raise ConfigError("seeds and their number are both given; give the seeds, or how many there shall be")
    number = len(seeds) if seeds else DEFAULT_NUM_SEEDS if num_seeds is None else num_seeds
    alone = (
        "; an interval over seeds needs two or more, and one seed is run by itself with --seed" if number < 2 else ""
    )
    _check(NumSeeds, number, f"the number of seeds is {number}", alone)
    chosen = tuple(seeds or range(first, first + number))
    for seed in chosen:
        _check(Seed, seed, f"{seed} is given as a seed", "; give another one")
    twice = [seed for seed, count in Counter(chosen).items() if count > 1]
    if twice:
        raise ConfigError(f"seed {twice[0]} is given twice, and would count twice; give every seed once")
    return chosen


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds out of a text such as `11,12,13`.

    Raises:
        ConfigError: the text is empty, or a part of it is not a whole number.
    """
    seeds = []
    for part in text.split(","):
        number = _WHOLE_NUMBER.fullmatch(part)
        if not number:
            raise ConfigError(
                f"--seeds {text!r}: {part.strip() or 'nothing'} is no seed; give whole numbers with commas between "
                "them, as in --seeds 11,12,13"
            )
        seeds.append(int(number[1]))
    return tuple(seeds)


def parse_num_seeds(text: str) -> int:
    """Number of seeds out of a text.

    Raises:
        ConfigError: the text is not a whole number.
    """
    number = _WHOLE_NUMBER.fullmatch(text)
    if not number:
        raise ConfigError(f"--num-seeds {text!r}: expected a whole number, as in --num-seeds 5")
    return int(number[1])


def _check(kind: Any, value: int, what: str, advice: str) -> None:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        limit = error.errors()[0]["msg"].removeprefix("Input should be ")
        raise ConfigError(f"{what}, and must be {limit}{advice}") from None

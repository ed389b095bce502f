"""Which seeds a recipe is run with where it is run several times, so that there is an interval over seeds."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rlhf.config.base import NumSeeds, Seed
from rlhf.errors import ConfigError

DEFAULT_NUM_SEEDS = 5
"""Where a person asks for several seeds and does not say how many."""
_WHOLE_NUMBER = re.compile(r"\s*(-?[0-9]{1,15})\s*")


def choose_seeds(first: int, seeds: Sequence[int] | None = None, num_seeds: int | None = None) -> tuple[int, ...]:
    """The seeds of a group.

    Args:
        first: the recipe's seed, from which on seeds are counted where only their number is given.
        seeds: the seeds themselves, in the order in which they are run; None or none at all where there is no list.
        num_seeds: how many; None where it is not said. `DEFAULT_NUM_SEEDS` where nothing is said at all.

    Raises:
        ConfigError: both are given; a seed is given twice, or cannot be one; or there are too few or too many.
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
    """The seeds that are written as `11,12,13`.

    Raises:
        ConfigError: there is none, or something else than a whole number.
    """
    found = []
    for part in text.split(","):
        number = _WHOLE_NUMBER.fullmatch(part)
        if not number:
            raise ConfigError(
                f"--seeds {text!r}: {part.strip() or 'nothing'} is no seed; give whole numbers with commas between "
                "them, as in --seeds 11,12,13"
            )
        found.append(int(number[1]))
    return tuple(found)


def parse_num_seeds(text: str) -> int:
    """How many seeds are asked for.

    Raises:
        ConfigError: it is no whole number.
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

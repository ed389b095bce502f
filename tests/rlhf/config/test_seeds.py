"""Which seeds a group has, as they are typed and as a form gives them."""

import pytest

from rlhf.config.seeds import choose_seeds, parse_num_seeds, parse_seeds
from rlhf.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ((0, None, None), (0, 1, 2, 3, 4)),
        ((0, [], None), (0, 1, 2, 3, 4)),
        ((7, None, 3), (7, 8, 9)),
        ((7, [30, 2], None), (30, 2)),
        ((0, [2**31 - 1, 0], None), (2**31 - 1, 0)),
        ((0, range(100), None), tuple(range(100))),
    ],
)
def test_seeds_of_a_group(given, chosen):
    assert choose_seeds(*given) == chosen


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0, [1, 2], 2), "seeds and their number are both given; give the seeds, or how many there shall be"),
        ((0, [1, 2, 1], None), "seed 1 is given twice, and would count twice; give every seed once"),
        ((0, [4], None), "number of seeds is 1, .*; an interval over seeds needs two or more, .* with --seed"),
        ((0, None, 1), "number of seeds is 1, and must be greater than or equal to 2"),
        ((0, None, 0), "number of seeds is 0"),
        ((0, None, -3), "number of seeds is -3"),
        ((0, None, 101), "number of seeds is 101, and must be less than or equal to 100"),
        ((0, [1, -1], None), "-1 is given as a seed, and must be greater than or equal to 0; give another one"),
        ((2**31 - 2, None, 3), "2147483648 is given as a seed, and must be less than 2147483648"),
    ],
)
def test_what_is_no_group(given, message):
    with pytest.raises(ConfigError, match=message):
        choose_seeds(*given)


def test_seeds_as_they_are_typed():
    assert parse_seeds("11,12, 13 ") == (11, 12, 13)
    assert parse_seeds("-1") == (-1,)
    assert parse_num_seeds(" 5") == 5


@pytest.mark.parametrize("text", ["", ",", "1,,2", "1,x", "1.5", "1 2", "٣", "²", "1" * 5000, "0x1"])
def test_what_is_no_seed(text):
    with pytest.raises(ConfigError, match=r"--seeds .* is no seed; give whole numbers with commas between them"):
        parse_seeds(text)
    with pytest.raises(ConfigError, match=r"--num-seeds .*: expected a whole number, as in --num-seeds 5"):
        parse_num_seeds(text)

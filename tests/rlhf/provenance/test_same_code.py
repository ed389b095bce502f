"""Two hosts that pass stages to each other have one version."""

import pytest

from rlhf.errors import ConfigError
from rlhf.provenance.same_code import check_same, this_code


def test_the_same():
    check_same(this_code(), "the host of `rlhf up`")
    check_same(this_code().model_copy(update={"commit": None}), "an installation without git")


@pytest.mark.parametrize("part", ["commit", "sources", "lock"])
def test_what_differs_is_named(part: str):
    theirs = this_code().model_copy(update={part: "f" * 40})
    with pytest.raises(ConfigError) as error:
        check_same(theirs, "the host of `rlhf up`")
    ours = getattr(this_code(), part)
    if ours is None:
        pytest.skip("the tests run without git")
    assert f": {part} {ours[:12]} here and ffffffffffff there; " in str(error.value)

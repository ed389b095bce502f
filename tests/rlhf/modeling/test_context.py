"""What the functions of a stage share."""

from dataclasses import FrozenInstanceError

import pytest

from rlhf.modeling.context import StageContext
from rlhf.modeling.device import derive_seed


def test_seeds_are_those_of_the_run_and_nothing_can_be_changed(tiny_setup):
    context = StageContext("settings", tiny_setup, None)
    assert context.seed("sft", "order") == derive_seed(tiny_setup.seed, "sft", "order")
    assert context.seed("sft") != context.seed("ptx", 0, 1)
    assert context.compute is tiny_setup.compute
    with pytest.raises(FrozenInstanceError):
        context.config = "others"

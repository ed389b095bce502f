"""A process that promotes and is killed on the way: `python promoting.py STEP TO FROM`. For the tests of recovery.

STEP counts the calls that change something: the process kills itself instead of the STEP-th one.
"""

import os
import signal
import sys
from typing import Any

from rlhf.paths import configure_environment

configure_environment()

from rlhf.tracking import registry  # noqa: E402

STEPS = ("_write", "_do_what_can_fail", "_move_alias")
left = int(sys.argv[1])


def killing(step: Any) -> Any:
    def call(*arguments: Any) -> Any:
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return step(*arguments)

    return call


for name in STEPS:
    setattr(registry, name, killing(getattr(registry, name)))
registry.promote(sys.argv[2], sys.argv[3] or None, "the-flow-run", {registry.DATA_TAG: "new.dir"})
os.kill(os.getpid(), signal.SIGKILL)

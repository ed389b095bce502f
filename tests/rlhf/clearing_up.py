"""A process that clears up and is killed on the way: `python clearing_up.py STEP`.

STEP counts the calls that change something on the disk: the process kills itself instead of the STEP-th one.
"""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from rlhf.paths import configure_environment

configure_environment()

from rlhf.runs.gc.plan import make_plan  # noqa: E402
from rlhf.runs.gc.removal import carry_out  # noqa: E402
from rlhf.tracking import artifacts  # noqa: E402

left = int(sys.argv[1])


def killing(step: Any) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return step(*arguments, **named)

    return call


def torn(folder: Any, *_: Any, **__: Any) -> None:
    """Removes one file, and then the rest."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    for path in files[:1]:
        path.unlink()
    rest(folder)


rest = killing(shutil.rmtree)
plan = make_plan(30)
artifacts.set_tags = killing(artifacts.set_tags)
Path.rename = killing(Path.rename)  # type: ignore[method-assign]
shutil.rmtree = torn  # type: ignore[assignment]
carry_out(plan)
print("done")

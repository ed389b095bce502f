"""What is made once for all processes that the tests are shared between."""

import os
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """A folder that all processes of the tests share and none of them changes: the first that needs it makes it."""
    shared = Path(os.environ["RLHF_TESTS_FOLDER"])
    folder, made = shared / name, shared / f"{name}.made"
    with FileLock(shared / f"{name}.lock"):
        if not made.exists():
            folder.mkdir()
            make(folder)
            made.touch()
    return folder

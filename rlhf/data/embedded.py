"""The generators of the embedded data sets, by name."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf.config.data import EmbeddedName
from rlhf.data.evaluation_sets import FOLDER

EMBEDDED_FOLDER = "embedded"
"""Holds a folder per embedded set, and beside it the set's .dvc file."""


def generate(name: EmbeddedName, folder: Path) -> None:
    """Write an embedded set to a folder, byte for byte the same at every call; of stories the prompts alone."""
    from rlhf.data import arithmetic_sets, calibrated_arithmetic, stories

    {"calibrated_arithmetic": calibrated_arithmetic.generate, "stories": stories.generate}[name](folder)
    if name == "calibrated_arithmetic":
        arithmetic_sets.generate(folder / FOLDER)


@contextmanager
def generated(name: EmbeddedName) -> Iterator[Path]:
    """An embedded set in a temporary folder, removed at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="rlhf-") as folder:
        generate(name, Path(folder))
        yield Path(folder)

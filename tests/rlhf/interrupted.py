"""Runs that are interrupted, started again, and compared with one that was left alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_whole_and_broken(make: Callable[[str], Any], interrupt_at: int, **settings: Any) -> tuple[Any, Any]:
    """Two `TinyRun`s of the same settings, the second interrupted in between; both have left the same bits."""
    whole, broken = make("whole"), make("broken")
    expected = contents(whole(**settings))
    broken.interrupt_at = interrupt_at
    with pytest.raises(KeyboardInterrupt):
        broken(**settings)
    broken.interrupt_at = None
    assert contents(broken(**settings)) == expected
    return whole, broken

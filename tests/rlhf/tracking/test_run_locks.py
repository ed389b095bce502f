"""Locks that tell living flow runs from dead ones."""

import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.paths import local_folder
from rlhf.tracking import run_locks as living

HOLDER = """
import sys
from rlhf.tracking.run_locks import hold_run_lock
with hold_run_lock("held"):
    print("held", flush=True)
    sys.stdin.read()
"""


def dead() -> list[str]:
    return living.close_dead(lambda _: True)


def test_a_run_lives_as_long_as_its_process(project_root: Path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert living.is_alive("held")
    assert dead() == []
    process.kill()
    process.communicate()
    assert not living.is_alive("held")
    assert dead() == ["held"]
    assert dead() == []


def test_a_run_that_ends_leaves_nothing(project_root: Path):
    with living.hold_run_lock("one"):
        assert living.is_alive("one")
        assert dead() == []
    assert not living.is_alive("one")
    assert list(local_folder("pipelines").iterdir()) == []


def test_nothing_known_is_not_alive(project_root: Path):
    assert not living.is_alive("unheard-of")
    assert not local_folder("pipelines").exists()


def test_a_run_that_failed_is_looked_after_until_its_books_are_closed(project_root: Path):
    with pytest.raises(OSError, match="full"), living.hold_run_lock("one"):
        raise OSError("the disk is full")
    assert not living.is_alive("one")
    assert living.close_dead(lambda _: False) == []
    assert dead() == ["one"]
    assert dead() == []

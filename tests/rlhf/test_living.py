"""Locks that tell living flow runs from dead ones."""

import subprocess
import sys
from pathlib import Path

from rlhf import living
from rlhf.project import pipelines_folder

HOLDER = """
import sys
from rlhf.living import alive
with alive("held"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_lives_as_long_as_its_process(project_root: Path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert living.is_alive("held")
    assert list(living.killed()) == []
    process.kill()
    process.communicate()
    assert not living.is_alive("held")
    assert list(living.killed()) == ["held"]
    assert list(living.killed()) == []


def test_a_run_that_ends_leaves_nothing(project_root: Path):
    with living.alive("one"):
        assert living.is_alive("one")
        assert list(living.killed()) == []
    assert not living.is_alive("one")
    assert list(pipelines_folder().iterdir()) == []


def test_nothing_known_is_not_alive(project_root: Path):
    assert not living.is_alive("unheard-of")
    assert not pipelines_folder().exists()

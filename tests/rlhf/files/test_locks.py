"""Locks between processes."""

import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rlhf.errors import InputError
from rlhf.files.locks import LockedError, is_locked, lock_of, locked

_HOLDER = """
import sys
from pathlib import Path
from rlhf.files.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def _holder(path: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _HOLDER, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_is_held_until_its_process_dies(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.lock"
    assert not is_locked(path)
    with _holder(path) as process:
        assert is_locked(path)
        process.kill()
    assert path.is_file()
    assert not is_locked(path)


def test_a_bounded_wait_ends_in_one_error_with_its_own_words(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with locked(path):
        with (
            pytest.raises(LockedError, match=r"^somebody is at work; wait$"),
            locked(path, "somebody is at work; wait", timeout=0),
        ):
            pass
        with (
            pytest.raises(InputError, match=rf"^another process holds {path}; wait until it is over$"),
            locked(path, timeout=0.1),
        ):
            pass


def test_an_error_inside_the_block_is_no_busy_lock_and_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with pytest.raises(ZeroDivisionError), locked(path, "busy", timeout=0):
        raise ZeroDivisionError
    assert not is_locked(path)


def test_a_wait_without_an_end_says_what_it_waits_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.lock"
    with _holder(path) as process, caplog.at_level(logging.WARNING):
        assert process.stdin is not None
        threading.Timer(0.3, process.stdin.close).start()
        with locked(path, "waiting for it"):
            assert [record.message for record in caplog.records] == ["waiting for it"]


def test_a_nested_lock_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with locked(path, nested=True) as first, locked(path, nested=True) as second:
        assert (first, second) == (1, 2)
        assert is_locked(path)
    assert not is_locked(path)


def test_the_lock_of_a_folder_lies_beside_it(tmp_path: Path) -> None:
    assert lock_of(tmp_path / "sft-1234") == tmp_path / "sft-1234.lock"

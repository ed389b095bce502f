"""Waiting for a server, up to a limit."""

import pytest

from flows.servers.waiting import wait_until


def test_a_check_is_asked_until_it_comes_true() -> None:
    answers = iter([False, False, True, False])
    assert wait_until(lambda: next(answers), seconds=60.0, every=0.001)
    assert list(answers) == [False]


def test_a_check_is_asked_once_without_time() -> None:
    answers = iter([False, True])
    assert not wait_until(lambda: next(answers), seconds=0.0, every=0.001)
    assert list(answers) == [True]


def test_an_error_of_the_check_ends_the_wait() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: bool(1 / 0), seconds=60.0, every=0.001)

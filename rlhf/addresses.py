"""Addresses of stores and remotes, as they may be shown and kept, and whether anything answers there."""

import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

Answer = TypeVar("Answer")


def without_password(url: str) -> str:
    """An address without the user and password that it may hold."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else url


def ask_within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """Ask somebody who may not answer: clients have no limit for all of it, and looking a name up has none at all.

    Args:
        seconds: how long the answer may take. A thread that waits longer is left behind.
        ask: asks.

    Raises:
        TimeoutError: no answer came in time.
    """
    answers: list[Answer] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # noqa: BLE001  # it is raised by the caller's thread
            errors.append(error)

    thread = threading.Thread(target=copy_context().run, args=(run,), daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return answers[0]

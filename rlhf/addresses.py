"""Addresses of stores and remotes, as they may be shown and kept, and whether anything answers there."""

import re
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

Answer = TypeVar("Answer")


_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s'\"`<>]+?)([).,;:\]]*)(?=[\s'\"`<>]|$)", re.IGNORECASE)


def public_address(url: str) -> str:
    """An address without what may be secret in it: user, password, query and fragment.

    Of an address whose password is not percent-encoded, so that nobody can say where it ends, only the scheme is left.

    Args:
        url: an address, or the path of a folder or file, which stays as it is.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return f"{scheme}://..."
    host = parts.netloc.rpartition("@")[2]
    outside = rest[len(parts.netloc) :]
    if "@" in outside and "@" not in parts.netloc and ":" in host:
        return f"{scheme}://..."
    return urlunsplit((parts.scheme, host, parts.path, "", "")) if parts.netloc else url.partition("?")[0]


def with_public_addresses(text: str) -> str:
    """A text of somebody else's, such as a library's error, with every address in it as `public_address` has it."""
    return _ADDRESS.sub(lambda found: public_address(found[1]) + found[2], text)


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

"""Waiting for a server, up to a limit."""

from collections.abc import Callable
from operator import not_

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed


def wait_until(check: Callable[[], bool], seconds: float, every: float) -> bool:
    """Whether a check comes true in time.

    Args:
        check: asked at least once.
        seconds: to wait at most.
        every: seconds between two checks.
    """
    waiting = Retrying(
        retry=retry_if_result(not_),
        stop=stop_after_delay(seconds),
        wait=wait_fixed(every),
        retry_error_callback=lambda _: False,
    )
    return waiting(check)

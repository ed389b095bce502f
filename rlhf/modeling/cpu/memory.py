"""Freed memory that glibc keeps, so that the next forward pass need not ask the system for it."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h
_KEPT_BYTES = 2**31 - 1


def trim_heap() -> None:
    """Let the system have what glibc kept, so that it does not add up. Asking again costs a page fault every 4 KiB."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def tune_malloc() -> None:
    """Let glibc keep large blocks that were freed: each would cost a page fault every 4 KiB when it is used again.

    The next forward pass asks for the same sizes, so the peak does not grow, if all threads share what was freed.
    docs/experiment-log.md has the figures.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in ((_M_TRIM_THRESHOLD, _KEPT_BYTES), (_M_MMAP_THRESHOLD, _KEPT_BYTES), (_M_ARENA_MAX, 1)):
            libc.mallopt(option, value)

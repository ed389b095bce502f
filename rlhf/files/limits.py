"""Limits on the memory that a file from outside takes: a small file may unpack to more than there is.

One setting, the environment's RLHF_LIMITS, counts on the command line and in the worker that imports at night.
"""

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from rlhf.errors import ConfigError, DataError

LIMITS_VARIABLE = "RLHF_LIMITS"
_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"(?P<number>[0-9]{1,6})(?P<unit>kB|MB|GB|TB)")
# What text unpacks to at most, in bytes per byte; that of people comes to about 10, and gzip's utmost is 1032.
_MAX_RATIO = 200
_MEMORY_MAP = Path("/proc/self/statm")


@dataclass(frozen=True)
class Limits:
    """Bytes that are read at most.

    Attributes:
        row: of a line, a row of a table, and all that a row of Parquet stands for.
        whole: of a file that can only be read as a whole: JSON, CSV, TSV and YAML, unpacked.
        file: of a file that is packed, unpacked; and no more than 200 times its size, once it is more than `whole`.
    """

    row: int = 16 * 10**6
    whole: int = 500 * 10**6
    file: int = 20 * 10**9

    def unpacked(self, packed: int) -> int:
        """The bytes that a packed file of this size may unpack to."""
        return min(self.file, max(self.whole, _MAX_RATIO * packed))


class _Readable(Protocol):
    def readline(self, size: int = -1, /) -> bytes: ...


def limits() -> Limits:
    """The limits that count, with what RLHF_LIMITS changes of them, such as `row=64MB,file=100GB`.

    Raises:
        ConfigError: RLHF_LIMITS is something else.
    """
    sizes = Limits()
    for part in filter(None, os.environ.get(LIMITS_VARIABLE, "").split(",")):
        name, _, text = part.strip().partition("=")
        size = _SIZE.fullmatch(text)
        if size is None or name not in vars(sizes):
            raise ConfigError(f"{LIMITS_VARIABLE}: got {part!r}, expected sizes such as row=64MB,whole=2GB,file=100GB")
        sizes = replace(sizes, **{name: int(size["number"]) * _UNITS[size["unit"]]})
    return sizes


def too_large(where: str, what: str, limit: str, largest: int) -> DataError:
    """The error about something that is more than a limit allows.

    Args:
        where: file, and line where it is known.
        what: is too large, with its verb, such as `the line has`.
        limit: name of the limit.
        largest: how many bytes it allows.
    """
    return DataError(
        f"{where}: {what} more than {_shown(largest)}; look whether the file is what it should be, and if it is, allow "
        f"more with the environment's {LIMITS_VARIABLE}={limit}={_shown(2 * largest)}"
    )


def lines_within(file: _Readable, name: str) -> Iterator[bytes]:
    """The lines of a file, none longer than a row may be. No more than that is ever held.

    Args:
        file: opened for reading bytes.
        name: of the file, for the message.

    Raises:
        DataError: a line is longer.
    """
    longest = limits().row
    number = 0
    while raw := file.readline(longest + 1):
        number += 1
        if len(raw) > longest:
            raise too_large(f"{name}:{number}", "the line has", "row", longest)
        yield raw


def memory_taken() -> int | None:
    """Bytes of memory that this process has taken, as RLIMIT_AS counts them; None where the system does not say."""
    return int(_MEMORY_MAP.read_text().split()[0]) * resource.getpagesize() if _MEMORY_MAP.is_file() else None


@contextmanager
def memory_within(num_bytes: int) -> Iterator[None]:
    """Within the block this process may take so much more memory, and no more: what asks for it gets a MemoryError.

    For libraries that take as much as a file says. Linux alone can do it; elsewhere the block runs without a limit.
    """
    now = memory_taken()
    if now is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = now + num_bytes
    if soft != resource.RLIM_INFINITY:
        wanted = min(wanted, soft)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _shown(num_bytes: int) -> str:
    unit = next((unit for unit in reversed(_UNITS) if num_bytes % _UNITS[unit] == 0), "kB")
    return f"{num_bytes // _UNITS[unit]}{unit}"

"""Is anything else running? Timings on a busy machine say nothing. Linux only: /proc/stat."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

QUIET_CORES = 0.1
"""Cores that others may use, all together, on a machine that counts as quiet."""


class BusyError(Exception):
    """Others use the machine, and went on doing so."""


@dataclass(frozen=True)
class CpuTimes:
    """Seconds since the machine started, over all cores, and what of them this process and its ended children used.

    Attributes:
        busy: neither idle nor waiting for a disk; time stolen by the hypervisor counts, since others used it.
        own: of this process.
        at: when, on a steady clock.
    """

    busy: float
    own: float
    at: float


def parse_busy(stat: str, ticks_per_second: int) -> float:
    """Busy seconds from the text of /proc/stat: user, nice, system, irq, softirq and steal."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    # Guests' time, which follows, is within user and nice already.
    ticks = dict(zip(names, map(int, stat.splitlines()[0].split()[1:]), strict=False))
    return (sum(ticks.values()) - ticks["idle"] - ticks["iowait"]) / ticks_per_second


def cpu_times() -> CpuTimes:
    """Of this moment."""
    own = os.times()
    busy = parse_busy(Path("/proc/stat").read_text(), os.sysconf("SC_CLK_TCK"))
    return CpuTimes(busy, own.user + own.system + own.children_user + own.children_system, time.monotonic())


def others_cores(before: CpuTimes, after: CpuTimes) -> float:
    """Cores that others used between two moments, on average. Children of ours must have ended by the second one."""
    return max(0.0, (after.busy - before.busy) - (after.own - before.own)) / (after.at - before.at)


def wait_until_quiet(
    patience_s: float,
    sample_s: float = 3.0,
    read: Callable[[], CpuTimes] = cpu_times,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Wait until others use less than QUIET_CORES; returns what they use then.

    Raises:
        BusyError: they did not stop within `patience_s`.
    """
    begun = before = read()
    while True:
        sleep(sample_s)
        after = read()
        cores = others_cores(before, after)
        if cores < QUIET_CORES:
            return cores
        if after.at - begun.at >= patience_s:
            raise BusyError(
                f"other processes use {cores:.2f} cores, and {QUIET_CORES} are allowed; stop them (see `top`) and "
                "start again, which goes on where this stopped, or measure all the same with BUSY=1"
            )
        before = after

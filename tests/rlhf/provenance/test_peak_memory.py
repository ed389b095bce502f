"""The most memory that a block holds: its own, without that of the blocks before it."""

import subprocess
import sys

from rlhf.provenance.memory import peak_memory

BYTES = 300 * 10**6


def measured(num_workers: int = 0, *, holds: bool = False) -> float:
    with peak_memory(num_workers) as peak:
        if holds:
            bytearray(b"x" * BYTES)
    return peak.mb


def test_a_peak_is_of_its_block():
    before = measured()
    assert measured(holds=True) > before + 290
    assert measured() < before + 100, "what a block let go does not count for the next one"


def test_processes_that_a_block_starts_count_each():
    before = measured()
    with peak_memory(2) as peak:
        subprocess.run([sys.executable, "-c", f"x = bytearray({BYTES}); x[::4096] = b'1' * len(x[::4096])"], check=True)
    assert peak.mb > before + 2 * 290
    assert "peak_device_memory_mb" not in peak.metrics()

"""Does an update grow faster with its size than the arithmetic says it must?

From the third largest size on, the parts of an update are expected to grow with their floating-point operations. A
decoding step also reads the cache, whose bytes grow with the square of the responses' length: attention's share of
generation is expected to take those bytes at the rate at which its products, measured alone, read keys that no cache
of the processor holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.arithmetic import Flops
from benchmarks.floor import cold_seconds

PHASES = ("generation", "scoring", "training")
FITTED = 3
"""So many of the largest sizes; of smaller ones fixed costs are too large a part."""

_ROWS, _COLUMNS, _SIZE = 128, 512, 32


@dataclass(frozen=True)
class Size:
    """One size: what was measured, and what the arithmetic says of it.

    Attributes:
        x: what is varied.
        seconds: by phase, and of `all`.
        flops: of the update.
        cache_bytes: that decoding reads.
    """

    x: float
    seconds: dict[str, float]
    flops: Flops
    cache_bytes: float

    def work(self, phase: str) -> float:
        """Operations of a phase that are not part of reading the cache."""
        work: float = getattr(self.flops, phase)
        return work - self.flops.over_cache if phase == "generation" else work


def expected(sizes: Sequence[Size], bytes_per_s: float) -> dict[str, list[float]]:
    """Seconds of each phase, and of `all`, at the `FITTED` largest sizes, from what the first of them took."""
    fitted = sizes[-FITTED:]
    phases = {phase: _expected(fitted, phase, bytes_per_s) for phase in PHASES}
    between = fitted[0].seconds["all"] - sum(phases[phase][0] for phase in PHASES)  # what no phase explains
    rest = [between * size.flops.all / fitted[0].flops.all for size in fitted]
    return phases | {"all": [sum(parts) for parts in zip(rest, *phases.values(), strict=True)]}


def _expected(fitted: Sequence[Size], phase: str, bytes_per_s: float) -> list[float]:
    first = fitted[0]
    reading = [size.cache_bytes / bytes_per_s if phase == "generation" else 0.0 for size in fitted]
    computing = max(0.0, first.seconds[phase] - reading[0])
    return [computing * size.work(phase) / first.work(phase) + read for size, read in zip(fitted, reading, strict=True)]


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of log y against log x by least squares over the `FITTED` largest sizes."""
    slope, _ = np.polyfit(np.log(x[-FITTED:]), np.log(y[-FITTED:]), 1)
    return float(slope)


def reading_rate(dtype: torch.dtype) -> float:
    """Bytes a second at which products of one query a row read keys that lie in no cache of the processor."""
    keys, query = torch.randn(_ROWS, _COLUMNS, _SIZE).to(dtype), torch.randn(_ROWS, 1, _SIZE).to(dtype)
    return keys.numel() * keys.element_size() / cold_seconds(query, keys.transpose(1, 2))

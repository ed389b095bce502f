"""What learning curves of several seeds say: differences at equal episodes, and time to a given height.

Shapes: S seeds, N points of a curve, the first one before any update.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.evaluation.statistics import Estimate, mean_interval

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """One side's curves.

    Attributes:
        episodes: seen so far, the same for all seeds, [N].
        seconds: of training so far, [S, N].
        gold: held-out gold reward, [S, N].
    """

    episodes: Array
    seconds: Array
    gold: Array

    @property
    def mean(self) -> Array:
        """Over the seeds, [N]."""
        mean: Array = self.gold.mean(0)
        return mean


def stack(rows: Sequence[Mapping[str, Any]]) -> Curves:
    """Curves from recorded runs, a row a seed, in the order of the seeds."""
    ordered = sorted(rows, key=lambda row: int(row["seed"]))
    return Curves(
        np.array(ordered[0]["episodes"], dtype=np.float64),
        np.array([row["seconds"] for row in ordered], dtype=np.float64),
        np.array([row["gold"] for row in ordered], dtype=np.float64),
    )


def differences(first: Curves, second: Curves) -> list[Estimate]:
    """First less second at equal episodes, paired over the seeds, with 95% t intervals; a point an estimate."""
    assert np.array_equal(first.episodes, second.episodes), "curves over different episodes"
    return [mean_interval(column) for column in (first.gold - second.gold).T]


def seconds_to(curves: Curves, gold: float) -> float | None:
    """Seconds after which the mean curve is first at `gold`, interpolated between points; None where it never is."""
    seconds, mean = curves.seconds.mean(0), curves.mean
    above = np.flatnonzero(mean >= gold)
    if not len(above):
        return None
    at = int(above[0])
    if at == 0:
        return float(seconds[0])
    share = (gold - mean[at - 1]) / (mean[at] - mean[at - 1])
    return float(seconds[at - 1] + share * (seconds[at] - seconds[at - 1]))


def compare(ours: Curves, peer: Curves) -> dict[str, Any]:
    """Ours against the peer: the difference at the end, the worst one on the way, and the time to the peer's best.

    The share of time is None where ours never gets there, and where the peer's best is what both start from.
    """
    every = differences(ours, peer)
    best = int(peer.mean.argmax())
    peer_seconds, our_seconds = float(peer.seconds.mean(0)[best]), seconds_to(ours, float(peer.mean[best]))
    return {
        "seeds": len(ours.gold),
        "episodes": int(ours.episodes[-1]),
        "start_gold": round(float(ours.mean[0]), 4),
        "our_gold": round(float(ours.mean[-1]), 4),
        "peer_gold": round(float(peer.mean[-1]), 4),
        "difference": round(every[-1].value, 4),
        "low": round(every[-1].low, 4),
        "high": round(every[-1].high, 4),
        "worst_difference": round(min(one.value for one in every), 4),
        "mean_difference": round(float((ours.gold - peer.gold).mean()), 4),
        "peer_best": round(float(peer.mean[best]), 4),
        "peer_best_episodes": int(peer.episodes[best]),
        "peer_seconds_to_best": round(peer_seconds, 2),
        "our_seconds_to_peer_best": None if our_seconds is None else round(our_seconds, 2),
        "share_of_time": None if our_seconds is None or not best else round(our_seconds / peer_seconds, 4),
        "our_seconds": round(float(ours.seconds[:, -1].mean()), 2),
        "peer_seconds": round(float(peer.seconds[:, -1].mean()), 2),
    }


def within_spread(first: Curves, second: Curves) -> dict[str, Any]:
    """Whether two curves are the same as far as the seeds can tell: the largest gap of the means beside the spread."""
    gaps = np.abs(first.mean - second.mean)
    spread = np.sqrt((first.gold.var(0, ddof=1) + second.gold.var(0, ddof=1)) / 2)
    last = differences(first, second)[-1]
    return {
        "difference": round(last.value, 4),
        "low": round(last.low, 4),
        "high": round(last.high, 4),
        "largest_gap": round(float(gaps.max()), 4),
        "spread_there": round(float(spread[int(gaps.argmax())]), 4),
        "gap_over_spread_median": round(float(np.median(gaps[1:] / spread[1:])), 3),
    }

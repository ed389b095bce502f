"""Metrics on their way to a tracking server: kept in memory, sent in batches from a thread of their own.

A server that is slow or gone neither stops nor fails the training that the metrics speak of.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rlhf.errors import one_line
from rlhf.files.atomic import write_file
from rlhf.metrics import check_declared
from rlhf.text.lines import read_json_lines

logger = logging.getLogger(__name__)
BATCH_SIZE = 1000
SEND_EVERY_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 60.0


@dataclass(frozen=True)
class MetricPoint:
    """One value of one metric.

    Attributes:
        key: name of the metric.
        value: a finite number, or NaN.
        timestamp: milliseconds since 1970, when it was logged; sending it twice stores it once.
        step: optimizer step or update; 0 for a final value.
    """

    key: str
    value: float
    timestamp: int
    step: int


def write_points(file: Path, points: Sequence[MetricPoint]) -> None:
    """Keep what could not be sent, a line per point. The file appears whole or not at all."""
    write_file(file, "".join(json.dumps(asdict(point)) + "\n" for point in points))
    logger.warning("%d metrics could not be sent; they are in %s, and the next run sends them", len(points), file)


def read_points(file: Path) -> list[list[MetricPoint]]:
    """The batches in a file of points."""
    points = [MetricPoint(**point) for point in read_json_lines(file)]
    return [points[start : start + BATCH_SIZE] for start in range(0, len(points), BATCH_SIZE)]


class NotSentError(Exception):
    """The server did not take a batch."""


class Spool:
    """Takes metrics at once and sends them when it can. Use it as a context manager: the end of the block waits.

    Attributes:
        not_finite: the first infinite or undefined value of each metric, in words. They are stored as NaN.
    """

    def __init__(self, send: Callable[[Sequence[MetricPoint]], None]) -> None:
        self.not_finite: dict[str, str] = {}
        self._send = send
        self._points: list[MetricPoint] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._warned = False
        self._thread = threading.Thread(target=self._send_until_closed, name="metrics", daemon=True)

    def __enter__(self) -> "Spool":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()

    def log(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Keep metrics until they are sent.

        Args:
            metrics: names and values.
            step: optimizer step or update; None for final values.

        Raises:
            UndeclaredMetricError: `rlhf.metrics` does not know a name.
        """
        check_declared(metrics)
        now = int(time.time() * 1000)
        points = [
            MetricPoint(key, self._finite(key, float(value), step), now, step or 0) for key, value in metrics.items()
        ]
        with self._lock:
            self._points += points

    def unsent(self) -> list[MetricPoint]:
        """The points that were logged and not sent."""
        with self._lock:
            return list(self._points)

    def _finite(self, key: str, value: float, step: int | None) -> float:
        """MLflow would store an infinite value as 1.8e308, which no axis survives."""
        if math.isfinite(value):
            return value
        self.not_finite.setdefault(key, f"{key} was {value} at step {step}")
        return math.nan

    def _send_until_closed(self) -> None:
        pause = SEND_EVERY_SECONDS
        while not self._closing.wait(pause):
            pause = SEND_EVERY_SECONDS if self._send_all() else min(2 * pause, LONGEST_PAUSE_SECONDS)
        self._send_all()

    def _send_all(self) -> bool:
        while batch := self.unsent()[:BATCH_SIZE]:
            try:
                self._send(batch)
            except NotSentError as error:
                self._warn(error)
                return False
            with self._lock:
                del self._points[: len(batch)]
        return True

    def _warn(self, error: NotSentError) -> None:
        if not self._warned:
            logger.warning(
                "the tracking server does not take metrics, they are kept and sent later: %s", one_line(error)
            )
        self._warned = True

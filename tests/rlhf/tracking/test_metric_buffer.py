"""Metrics on their way to a server that may be slow or gone."""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlhf.metrics import UndeclaredMetricError
from rlhf.tracking import metric_buffer as spool
from rlhf.tracking.metric_buffer import MetricPoint, NotSentError, Spool, read_points, write_points


class Server:
    """Takes points, or does not."""

    def __init__(self) -> None:
        self.batches: list[list[MetricPoint]] = []
        self.gone = False

    def take(self, points: Sequence[MetricPoint]) -> None:
        if self.gone:
            raise NotSentError("connection refused")
        self.batches.append(list(points))

    @property
    def values(self) -> list[tuple[int, float]]:
        return [(point.step, point.value) for batch in self.batches for point in batch]


def test_all_arrives_in_order_and_in_batches():
    server = Server()
    with Spool(server.take) as log:
        for step in range(2500):
            log.log({"sft/loss": step / 2}, step)
    assert server.values == [(step, step / 2) for step in range(2500)]
    assert max(len(batch) for batch in server.batches) == spool.BATCH_SIZE
    assert log.unsent() == []


def test_points_keep_the_time_at_which_they_were_logged():
    server = Server()
    with Spool(server.take) as log:
        before = int(time.time() * 1000)
        log.log({"sft/loss": 1.0, "sft/validation_loss": 2.0}, None)
        after = int(time.time() * 1000)
        time.sleep(0.05)
    assert all(before <= point.timestamp <= after for point in server.batches[0])


def test_a_server_that_is_gone_for_a_while_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(spool, "SEND_EVERY_SECONDS", 0.01)
    server = Server()
    server.gone = True
    with caplog.at_level(logging.WARNING), Spool(server.take) as log:
        log.log({"sft/loss": 1.0}, 1)
        time.sleep(0.2)
        log.log({"sft/loss": 2.0}, 2)
        server.gone = False
    assert server.values == [(1, 1.0), (2, 2.0)]
    assert len(caplog.records) == 1


def test_a_slow_server_does_not_hold_up_the_training():
    release = threading.Event()
    with Spool(lambda points: release.wait(10) and None) as log:
        started = time.monotonic()
        for step in range(3000):
            log.log({"sft/loss": 1.0}, step)
        assert time.monotonic() - started < 5
        release.set()


def test_a_server_that_stays_away_leaves_all_to_a_file(tmp_path: Path):
    server = Server()
    server.gone = True
    with Spool(server.take) as log:
        log.log({"sft/loss": 1.0, "sft/learning_rate": 0.5}, 3)
    file = tmp_path / "unsent" / "run.jsonl"
    write_points(file, log.unsent())
    assert read_points(file) == [log.unsent()]
    assert [(point.key, point.value, point.step) for point in log.unsent()] == [
        ("sft/loss", 1.0, 3),
        ("sft/learning_rate", 0.5, 3),
    ]


def test_what_is_not_finite_is_nan_and_remembered():
    server = Server()
    with Spool(server.take) as log:
        log.log({"sft/loss": float("inf")}, 4)
        log.log({"sft/loss": float("nan")}, 5)
    assert [str(value) for _, value in server.values] == ["nan", "nan"]
    assert log.not_finite == {"sft/loss": "sft/loss was inf at step 4"}


def test_an_undeclared_metric_is_refused_at_once():
    with Spool(Server().take) as log, pytest.raises(UndeclaredMetricError, match="sft/lost"):
        log.log({"sft/lost": 1.0}, 1)

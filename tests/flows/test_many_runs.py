"""Many runs submitted at once: they wait for cores and for memory, and all of them complete."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from postgresql_server import postgresql
from smoke_runs import recipe
from started_services import Up, services

LEFT = 4 * 10**9
"""Bytes of memory that stay free for whatever else the machine does."""


@contextmanager
def least_memory() -> Iterator[list[int]]:
    """The least memory that was free within the block, in bytes, as a list of one."""
    least = [psutil.virtual_memory().available]
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            least[0] = min(least[0], psutil.virtual_memory().available)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield least
    finally:
        over.set()
        looking.join()


def submit_and_wait(up: Up, count: int) -> None:
    """Runs of `smoke` that share no stage with one another."""
    begun = time.monotonic()
    with least_memory() as least:
        for seed in range(count):
            up.submit("smoke", recipe() | {"seed": seed})
        submitted = time.monotonic() - begun
        states: Counter[str] = Counter()
        while sum(states[name] for name in ("Completed", "Failed", "Crashed", "Cancelled")) < count:
            time.sleep(2)
            states = Counter(one["state"]["name"] for one in up.flow_runs_of("smoke"))
    print(f"{count} runs: submitted in {submitted:.1f} s, ended after {time.monotonic() - begun:.0f} s")
    print(f"least memory free {least[0] / 1e9:.1f} GB of {psutil.virtual_memory().total / 1e9:.1f} GB; {dict(states)}")
    assert states == {"Completed": count}
    assert least[0] > LEFT
    client = up.mlflow()
    experiment = client.get_experiment_by_name("rlhf")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=count * 10)
    assert Counter(run.info.status for run in runs).keys() == {"FINISHED"}
    assert sum("mlflow.parentRunId" not in run.data.tags for run in runs) == count


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_forty_on_postgresql(embedded_project: Path):
    with postgresql() as server, services(embedded_project, "--database", server.url) as up:
        submit_and_wait(up, 40)
        up.stop()


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_twenty_on_sqlite(embedded_project: Path):
    with services(embedded_project) as up:
        submit_and_wait(up, 20)
        up.stop()

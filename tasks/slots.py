"""Slots of the machine's cores: runs that want them at the same time queue."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from rlhf.config import ComputeConfig, Setup

CORES = "rlhf-cores"
"""Prefect's global concurrency limit; `rlhf up` sets it to the number of cores. Without it nobody waits."""
_LEASE_SECONDS = 120.0


@contextmanager
def cores_held(arguments: Mapping[str, Any]) -> Iterator[None]:
    """Wait for the cores that a stage computes on, and hold them. A killed process loses them with its lease.

    Args:
        arguments: of the stage; those with a `Setup` say how many threads and processes it has.
    """
    if not _is_limited():
        yield
        return
    setups = [value for value in arguments.values() if isinstance(value, Setup)]
    wanted = _wanted(setups[0].compute) if setups else 1
    # Training keeps the interpreter busy: a renewal that came late is no reason to end it.
    with concurrency(
        CORES, occupy=wanted, lease_duration=_LEASE_SECONDS, strict=False, raise_on_lease_renewal_failure=False
    ):
        yield


def _is_limited() -> bool:
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(CORES)
        except ObjectNotFound:
            return False
    return True


def _wanted(compute: ComputeConfig) -> int:
    """An accelerator is one whatever the threads, so a run with one takes all: two of them queue as well."""
    cores = os.cpu_count() or 1
    return cores if compute.device == "cuda" else min(cores, compute.num_threads * compute.num_processes)

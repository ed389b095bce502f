"""Slots of the machine's cores: runs that want them at the same time queue."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import httpx
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_fixed

from rlhf.addresses import with_public_addresses
from rlhf.config.model import ComputeConfig, Setup

logger = logging.getLogger("rlhf.slots")
Result = TypeVar("Result")
CORES = "rlhf-cores"
"""Prefect's global concurrency limit; `rlhf up` sets it to the number of cores. Without it nobody waits."""
CORES_VARIABLE = "RLHF_CORES"
"""The variable that names the limit of another host's cores; `rlhf worker` makes it and sets it."""
_LEASE_SECONDS = 60.0
_PATIENCE_SECONDS = 120.0
_SERVER_ERROR = 500


@contextmanager
def reserve_cores(arguments: Mapping[str, Any]) -> Iterator[None]:
    """Wait for the cores that a stage computes on, and hold them. A killed process loses them with its lease.

    Args:
        arguments: of the stage; a `Setup` or its compute settings say how many threads and processes it has.
    """
    computes = [value.compute for value in arguments.values() if isinstance(value, Setup)]
    computes += [value for value in arguments.values() if isinstance(value, ComputeConfig)]
    with _locked(_wanted(computes[0]) if computes else 1):
        yield


@contextmanager
def all_cores_held() -> Iterator[None]:
    """Wait for all cores, and hold them."""
    with _locked(os.cpu_count() or 1):
        yield


@contextmanager
def _locked(wanted: int) -> Iterator[None]:
    limit = retry_while_away(_limit)
    if limit is None:
        yield
        return
    # A person may have set fewer slots than there are cores: who wants more takes all.
    held = retry_while_away(lambda: _occupied(min(wanted, limit)))
    try:
        yield
    finally:
        _release(held)


def _occupied(wanted: int) -> ExitStack:
    held = ExitStack()
    # Training keeps the interpreter busy: a renewal that came late is no reason to end it.
    limit = concurrency(
        _name(), occupy=wanted, lease_duration=_LEASE_SECONDS, strict=False, raise_on_lease_renewal_failure=False
    )
    held.enter_context(limit)
    return held


def _release(held: ExitStack) -> None:
    """What a stage has made must not be lost because Prefect's server is being restarted."""
    try:
        held.close()
    except httpx.HTTPError as error:
        logger.warning(
            "Prefect does not answer, so the cores are free in %.0f s: %s",
            _LEASE_SECONDS,
            with_public_addresses(repr(error)),
        )


def retry_while_away(call: Callable[[], Result]) -> Result:
    """Call again while the server is away. Prefect's client does so only once it has reached it."""
    retrying = Retrying(
        retry=retry_if_exception(_is_away),
        stop=stop_after_delay(_PATIENCE_SECONDS),
        wait=wait_fixed(2.0),
        before_sleep=_warn,
        reraise=True,
    )
    return retrying(call)


def _is_away(error: BaseException) -> bool:
    refused = isinstance(error, httpx.HTTPStatusError) and error.response.status_code < _SERVER_ERROR
    return isinstance(error, httpx.HTTPError) and not refused


def _warn(state: RetryCallState) -> None:
    assert state.outcome is not None, "a call has failed"
    logger.warning("Prefect does not answer, trying again: %s", with_public_addresses(repr(state.outcome.exception())))


def _limit() -> int | None:
    """The number of slots; None where nobody set a limit."""
    with get_client(sync_client=True) as client:
        try:
            return client.read_global_concurrency_limit_by_name(_name()).limit
        except ObjectNotFound:
            return None


def _name() -> str:
    return os.environ.get(CORES_VARIABLE, CORES)


def _wanted(compute: ComputeConfig) -> int:
    """An accelerator is one whatever the threads, so a run with one takes all: two of them queue as well."""
    cores = os.cpu_count() or 1
    return cores if compute.device == "cuda" else min(cores, compute.num_threads * compute.num_processes)

"""Leases of attempts: of all hosts that share a Prefect server, one at a time works on a stage's fingerprint.

The lease is a slot of a limit of Prefect's that is named after the fingerprint. A process of its own renews it
(`tasks.lease_renewal`), so a host that dies loses it within two minutes, and a host that computes does not.
"""

import base64
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import IO
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings
from pydantic import SecretStr

from rlhf.errors import RLHFError
from rlhf.files.atomic import write_file
from rlhf.paths import source_root
from tasks.core_slots import retry_while_away

logger = logging.getLogger("rlhf.lease")
PREFIX = "rlhf-attempt-"
"""What the names of the limits begin with; `rlhf up` removes those that nobody holds."""
LEASE_SECONDS = 120.0
_RENEW_SECONDS = 20.0
_ASK_SECONDS = 5.0


class LeaseLostError(RLHFError):
    """Another attempt works on the same stage by now."""


class Lease:
    """The right to work on a fingerprint, for as long as the block of `attempt_lease` lasts.

    Args:
        limit: the name of the limit.
        lease_id: Prefect's id of the slot.
        note: file that names the slot, by which the next attempt on this host gives it back where this one is killed.
    """

    def __init__(self, limit: str, lease_id: UUID, note: Path) -> None:
        self._limit, self._note = limit, note
        self._lock = threading.Lock()
        self._begin(lease_id)

    def look(self) -> None:
        """See whether the lease is still renewed; costs nothing while it is.

        Raises:
            LeaseLostError: another attempt holds it.
        """
        if self._renewal.poll() is not None:
            self.confirm()

    def confirm(self) -> None:
        """Ask the server whether this attempt may still publish what it made.

        A lease that ran out while the server was away is taken again, unless another attempt has it.

        Raises:
            LeaseLostError: another attempt holds it.
        """
        with self._lock:
            if not retry_while_away(lambda: _renew(self._id)):
                self._take_again()

    def _take_again(self) -> None:
        lease_id = retry_while_away(lambda: _ask(self._limit))
        if lease_id is None:
            raise LeaseLostError(
                "another attempt at this stage, perhaps on another host, has taken it over, since this one's lease was "
                "not renewed in time; nothing of this attempt is published; Retry finds what the other one makes"
            )
        self._end_renewal()
        self._begin(lease_id)

    def _begin(self, lease_id: UUID) -> None:
        write_file(self._note, str(lease_id))
        self._id, self._renewal = lease_id, _start_renewal(lease_id)

    def release(self) -> None:
        """Let another attempt work. Where the server is away, the lease runs out."""
        self._end_renewal()
        try:
            _give_back(self._id)
        except httpx.HTTPError as error:
            logger.warning("the lease %s runs out in %.0f s: %s", self._id, LEASE_SECONDS, type(error).__name__)
        else:
            self._note.unlink(missing_ok=True)

    def _end_renewal(self) -> None:
        _input_of(self._renewal).close()
        try:
            self._renewal.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._renewal.kill()
            self._renewal.wait()


@contextmanager
def attempt_lease(fingerprint: str, folder: Path, busy: str) -> Iterator[Lease | None]:
    """Wait until no other attempt has the lease of a fingerprint, and hold it. The folder's lock is held by then.

    Args:
        fingerprint: of the stage.
        folder: the working folder of this host's attempts.
        busy: what to say where another attempt has it.

    Yields:
        The lease; None where the run's Prefect server is its own, which no other host can ask.
    """
    if "PREFECT_API_URL" not in os.environ:
        yield None
        return
    limit, note = f"{PREFIX}{fingerprint[:16]}", folder / "lease"
    if note.is_file():  # its attempt was killed: the folder's lock is free
        killed = UUID(note.read_text())
        retry_while_away(lambda: _give_back(killed))
    lease = Lease(limit, _wait_for(limit, busy), note)
    try:
        yield lease
    finally:
        lease.release()


def _wait_for(limit: str, busy: str) -> UUID:
    told = False
    while True:
        lease_id = retry_while_away(lambda: _ask(limit))
        if lease_id is not None:
            return lease_id
        if not told:
            logger.warning(busy)
        told = True
        time.sleep(_ASK_SECONDS)


def _ask(limit: str) -> UUID | None:
    """Ask for the lease; None where another attempt has it."""
    with get_client(sync_client=True) as client:
        try:
            client.upsert_global_concurrency_limit_by_name(limit, 1)
            answer = client.increment_concurrency_slots_with_lease(
                names=[limit], slots=1, mode="concurrency", lease_duration=LEASE_SECONDS
            ).json()
        except httpx.HTTPStatusError as error:
            # The second: another host has made the limit at the same time.
            if error.response.status_code in (HTTPStatus.LOCKED, HTTPStatus.CONFLICT):
                return None
            raise
    # Of a limit that was removed in between there is no slot to hold.
    return UUID(answer["lease_id"]) if answer["limits"] else None


def _give_back(lease_id: UUID) -> None:
    with get_client(sync_client=True) as client:
        client.release_concurrency_slots_with_lease(lease_id=lease_id)


def _renew(lease_id: UUID) -> bool:
    with get_client(sync_client=True) as client:
        try:
            client.renew_concurrency_lease(lease_id=lease_id, lease_duration=LEASE_SECONDS)
        except httpx.HTTPStatusError as error:
            if error.response.status_code in (HTTPStatus.GONE, HTTPStatus.NOT_FOUND):
                return False
            raise
    return True


def _start_renewal(lease_id: UUID) -> "subprocess.Popen[str]":
    api = get_current_settings().api
    # What lets this process in goes through a pipe, where no other user sees it.
    given = {
        "url": str(api.url),
        "headers": {"Authorization": _authorization(api.auth_string, api.key)},
        "lease": str(lease_id),
        "seconds": LEASE_SECONDS,
        "every": _RENEW_SECONDS,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.lease_renewal"],
        stdin=subprocess.PIPE,
        text=True,
        cwd=source_root(),
        start_new_session=True,
    )
    standard_input = _input_of(process)
    standard_input.write(f"{json.dumps(given)}\n")
    standard_input.flush()
    return process


def _authorization(login: SecretStr | None, key: SecretStr | None) -> str:
    """As Prefect's own client says who it is."""
    if login is not None:
        return f"Basic {base64.b64encode(login.get_secret_value().encode()).decode()}"
    return "" if key is None else f"Bearer {key.get_secret_value()}"


def _input_of(process: "subprocess.Popen[str]") -> IO[str]:
    assert process.stdin is not None, "it was started with a pipe"
    return process.stdin

"""Prefect's temporary server, held so that it ends with its run, however that ends.

Prefect's own starts a process that outlives a killed run, and that Ctrl-C in a terminal stops before the run could say
how it ended. This one serves the same application in a session of its own, and stops once the pipe to its standard
input breaks, which a dead parent cannot prevent.
"""

import contextlib
import importlib
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from flows.servers.given import check_answers
from rlhf.errors import InputError
from rlhf.files.locks import locked
from rlhf.imports import without_collection
from rlhf.text.terminal import say

_EPHEMERAL = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
START_SECONDS = 180.0


@contextlib.contextmanager
def temporary_server(meanwhile: Callable[[], object] = lambda: None) -> Iterator[str]:
    """Start a server where no PREFECT_API_URL is set, and make it the one that flows called in the block talk to.

    Args:
        meanwhile: is called while the server starts, which takes seconds.

    Yields:
        The URL of the API that is used.

    Raises:
        ConfigError: the server that is set does not answer.
        InputError: a server of this run's own does not start.
    """
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, get_current_settings, temporary_settings

    settings = get_current_settings()
    if settings.api.url is not None:
        check_answers(settings.api.url)
        meanwhile()
        yield settings.api.url
        return
    log = settings.home / "temporary-server.log"
    # Other users of the machine reach the port as well.
    password = f"rlhf:{secrets.token_urlsafe(24)}"
    environment = settings.to_environment_variables(exclude_unset=True) | {"PREFECT_SERVER_API_AUTH_STRING": password}
    known = {PREFECT_API_AUTH_STRING: password}
    with _process(log, environment, meanwhile) as url, temporary_settings({PREFECT_API_URL: url} | known):
        try:
            yield url
        finally:
            _send_what_is_left()


@contextlib.contextmanager
def _process(log: Path, environment: dict[str, str], meanwhile: Callable[[], object]) -> Iterator[str]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as errors, contextlib.ExitStack() as starting:
        # Two servers that both migrate a new database break it.
        starting.enter_context(locked(log.with_suffix(".lock")))
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.servers.temporary"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | environment | _EPHEMERAL,
            start_new_session=True,
        )
        with process:
            try:
                # The server takes seconds to start; what every flow imports is imported meanwhile.
                importlib.import_module("flows.pipeline")
                meanwhile()
                url = _wait_until_up(process, log)
                starting.close()
                yield url
            finally:
                _stop(process)


def _wait_until_up(process: "subprocess.Popen[str]", log: Path) -> str:
    """Read the port that the process listens at, and wait for the answer to a first request."""
    import httpx

    assert process.stdout is not None
    port = process.stdout.readline().strip()
    try:
        if port:
            httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=START_SECONDS).raise_for_status()
            return f"http://127.0.0.1:{port}/api"
    except httpx.HTTPError as error:
        raise _not_started(f"does not answer ({error!r})", log) from error
    raise _not_started("did not start", log)


def _not_started(what: str, log: Path) -> InputError:
    said = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
    return InputError(
        f"Prefect's temporary server {what}; the last it said was {said[0]!r}, the rest is in {log}; "
        f"a database of Prefect's that is damaged is made anew once {log.parent / 'prefect.db'} is moved away"
    )


def _stop(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()


def _send_what_is_left() -> None:
    """States of tasks and log lines are on their way in threads of Prefect's."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all(timeout=10)
    APILogWorker.drain_all(timeout=10)


def _serve() -> None:
    """The process itself: serve Prefect's application at a free port, until standard input ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    # From here on a request waits for the application rather than being refused.
    say(str(listener.getsockname()[1]), flush=True)
    with without_collection():
        import uvicorn
        from prefect.server.api.server import create_app

        app = create_app()
    config = uvicorn.Config(
        app,
        log_level="error",
        lifespan="on",
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    threading.Thread(target=_stop_at_end_of_input, args=(server,), daemon=True).start()
    server.run(sockets=[listener])


def _stop_at_end_of_input(server: object) -> None:
    sys.stdin.read()
    server.should_exit = True  # type: ignore[attr-defined]


if __name__ == "__main__":
    _serve()

"""Logins of people who answer, on a server that has none."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlhf.tracking.reviewers import Reviewers


@pytest.fixture
def without_logins(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A server like one that was started without authentication, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        yield asked
        server.shutdown()


def test_a_server_without_logins_keeps_nobody_out_and_is_not_waited_for(without_logins: list[str]):
    began = time.monotonic()
    assert not Reviewers().is_kept()
    Reviewers().check(["ann"])
    Reviewers().let_review(["ann"], "1")
    assert time.monotonic() - began < 20, "it waited ten minutes for a route that will not come"
    assert {path.partition("?")[0] for path in without_logins} == {"/api/2.0/mlflow/users/get"}

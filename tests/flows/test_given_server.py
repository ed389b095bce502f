"""A Prefect server that somebody named, and that is not there: one line within seconds, and nothing begun."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from flows.servers import given as given_server
from flows.servers.given import check_answers
from rlhf.cli.main import main
from rlhf.errors import ConfigError

SMOKE = str(Path(__file__).resolve().parents[2] / "configs" / "smoke.yaml")


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[str]:
    """The API's address at a server that gives one answer to everything."""
    status, kind, body = request.param

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


def refusal(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", url)
    started = time.monotonic()
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(ConfigError) as error:
        check_answers(url)
    assert time.monotonic() - started < 10
    message = str(error.value)
    assert message.startswith(f"PREFECT_API_URL is {url}, ")
    assert "unset it" in message
    assert "`rlhf up`" in message
    assert "\n" not in message
    return message


def test_nobody_listens(closed_port: int, monkeypatch: pytest.MonkeyPatch):
    assert "where no server answers (" in refusal(f"http://127.0.0.1:{closed_port}/api", monkeypatch)


@pytest.mark.parametrize("url", ["http://no-such-host.invalid:4200/api", "nonsense", "ftp://127.0.0.1/api"])
def test_no_such_address(url: str, monkeypatch: pytest.MonkeyPatch):
    assert "where no server answers (" in refusal(url, monkeypatch)


def test_somebody_listens_and_says_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(given_server, "ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        message = refusal(f"http://127.0.0.1:{deaf.getsockname()[1]}/api", monkeypatch)
    assert "no answer within 1 s" in message


@pytest.mark.parametrize(
    ("answering", "what"),
    [
        ((404, "text/html", b"<html>"), "not Prefect's API (HTTP 404)"),
        ((200, "text/html", b"<html>"), "not Prefect's API"),
        ((200, "application/json", b'{"ok": 1}'), "not Prefect's API"),
        ((502, "text/plain", b"bad gateway"), "HTTP 502"),
        ((401, "application/json", b"{}"), "does not let you in (HTTP 401): set PREFECT_API_AUTH_STRING"),
    ],
    indirect=["answering"],
)
def test_something_else_answers(answering: str, what: str, monkeypatch: pytest.MonkeyPatch):
    assert what in refusal(answering, monkeypatch)


def test_a_server_that_is_there(prefect_server: str):
    check_answers(prefect_server)


@pytest.mark.parametrize(
    ("file", "text", "who"),
    [
        ("profiles.toml", 'active = "away"\n[profiles.away]\nPREFECT_API_URL = "{}"\n', "in the Prefect profile away"),
        ("prefect.toml", '[api]\nurl = "{}"\n', "in a settings file of Prefect's"),
    ],
)
def test_the_command_says_who_named_it(file: str, text: str, who: str, embedded_project: Path, closed_port: int):
    """In a process of its own: Prefect reads its settings once."""
    url = f"http://127.0.0.1:{closed_port}/api"
    home = embedded_project / ".prefect"
    home.mkdir()
    folder = home if file == "profiles.toml" else embedded_project
    (folder / file).write_text(text.format(url))
    done = subprocess.run(
        [sys.executable, "-m", "rlhf.cli", "run", SMOKE],
        cwd=embedded_project,
        env=os.environ | {"PREFECT_HOME": str(home), "PYTHONPATH": str(Path(SMOKE).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    first, *_, last = done.stderr.splitlines()
    assert first.startswith("base model: none; a Llama with random weights")
    assert last.startswith(f"rlhf: error: PREFECT_API_URL {who}")
    assert f"is {url}, where no server answers" in last
    assert f"PREFECT_HOME={home}" in last


def test_the_command_ends_with_2(
    embedded_project: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url = f"http://127.0.0.1:{closed_port}/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    with temporary_settings({PREFECT_API_URL: url}):
        assert main(["run", SMOKE]) == 2
    assert f"rlhf: error: PREFECT_API_URL is {url}" in capsys.readouterr().err
    assert not (embedded_project / ".rlhf").exists()

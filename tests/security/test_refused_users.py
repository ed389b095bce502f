"""A server that asks for a password and is given none, or the wrong one: an answer at once, and what to set."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import requests
from ports import free_port

from rlhf.tracking.client import TrackingError, client, retry_while_unavailable

PASSWORD = "correct horse battery"  # pragma: allowlist secret
WRONG = {"MLFLOW_TRACKING_USERNAME": "rlhf", "MLFLOW_TRACKING_PASSWORD": "no"}  # pragma: allowlist secret


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, migrated_mlflow: Path) -> Iterator[str]:
    """The address of a real MLflow server that asks for a password, as that of `rlhf up` does."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "mlflow.db").write_bytes(migrated_mlflow.read_bytes())
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder / 'users.db'}\nadmin_username = rlhf\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--app-name", "basic-auth"]
    environment = os.environ | {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key",  # pragma: allowlist secret
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        for _ in range(600):
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        os.killpg(process.pid, 9)


@pytest.mark.parametrize("variables", [{}, WRONG])
@pytest.mark.parametrize("command", ["runs", "gc"])
def test_a_command_without_the_password(guarded: str, project_root: Path, command: str, variables: dict[str, str]):
    """Row 24: without RLHF_PASSWORD in the environment `rlhf runs` retried a 401 for up to two minutes."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "rlhf.cli", command],
        env=os.environ | {"MLFLOW_TRACKING_URI": guarded} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert time.monotonic() - begun < 30
    assert done.stderr.startswith(
        f"rlhf: error: the MLflow store {guarded} does not let you in (HTTP 401); set RLHF_PA"
    )
    assert done.stderr.count("\n") == 1


class Refusing(BaseHTTPRequestHandler):
    """Answers all requests in the same way."""

    status = 401

    def do_GET(self) -> None:
        """Refuse."""
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(params=[401, 403])
def refusing(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """The address of a server that refuses everything, and by which status."""
    handler = type("Handler", (Refusing,), {"status": request.param})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", request.param
        server.shutdown()


def test_a_refusal_is_final(refusing: tuple[str, int], project_root: Path, monkeypatch: pytest.MonkeyPatch):
    """Row 24: a refusal is no server that is being restarted, whether MLflow's client or requests met it."""
    address, status = refusing
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    said = f"does not let you in \\(HTTP {status}\\); set RLHF_PASSWORD"
    begun = time.monotonic()
    with pytest.raises(TrackingError, match=said):
        retry_while_unavailable(lambda: client().get_run("0" * 32))

    def download() -> None:
        requests.get(address, timeout=5).raise_for_status()

    with pytest.raises(TrackingError, match=said):
        retry_while_unavailable(download)
    assert time.monotonic() - begun < 10

"""Where the services are, who may use them, and how the project's other commands find them."""

import socket
from pathlib import Path

import pytest
from mlflow.server.security_utils import is_allowed_host_header

from rlhf.errors import ConfigError
from rlhf.files.locks import LockedError
from rlhf.services.settings import (
    HOSTS_VARIABLE,
    PASSWORD_VARIABLE,
    Services,
    make_password,
    password_file,
    running,
    services_running,
)

SECRET = "correct horse battery"  # pragma: allowlist secret


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::"])
def test_another_address_needs_a_password(host: str):
    with pytest.raises(ConfigError, match=f"{host} lets other machines in"):
        Services(host, login_from="none").check()
    Services(host).check()


def test_a_password_that_is_given_is_long_and_not_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(PASSWORD_VARIABLE, "short")
    with pytest.raises(ConfigError, match="fewer than 12 characters"):
        Services(login_from="variable").check()
    with pytest.raises(ConfigError, match="--no-password is given and RLHF_PASSWORD is set"):
        Services(login_from="none").check()


def test_a_password_is_made_once_and_kept(project_root: Path):
    assert Services().password is None
    made = make_password()
    assert Services().password == made
    assert len(made) >= 32
    assert password_file().stat().st_mode & 0o777 == 0o600


def test_names_by_which_the_servers_may_be_called(monkeypatch: pytest.MonkeyPatch):
    assert Services().names == ["127.0.0.1", "localhost", "::1"]
    monkeypatch.setenv(HOSTS_VARIABLE, "Rlhf.Example.org, other")
    assert Services("192.0.2.7").names == ["127.0.0.1", "localhost", "::1", "192.0.2.7", "rlhf.example.org", "other"]
    found = Services("0.0.0.0").names
    assert socket.gethostname().lower() in found
    assert "evil.test" not in found
    allowed = Services("192.0.2.7").environment()["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    for host in ("192.0.2.7:5000", "[::1]:5000", "[::1]", "rlhf.example.org", "rlhf.example.org:8443"):
        assert is_allowed_host_header(allowed, host)
    for host in ("evil.test", "evil.rlhf.example.org:443", "x[::1]:5000"):
        assert not is_allowed_host_header(allowed, host)


@pytest.mark.parametrize(
    ("services", "what"),
    [
        (Services(prefect_port=5000), "are both 5000"),
        (Services(prefect_port=70000), "--prefect-port 70000: expected a port from 1 to 65535"),
        (Services(mlflow_port=-1), "--mlflow-port -1: expected a port from 1 to 65535"),
        (Services(database="sqlite:///x.db"), "postgresql://USER@HOST:PORT/NAME"),
    ],
)
def test_what_cannot_work_is_refused(services: Services, what: str):
    with pytest.raises(ConfigError, match=what):
        services.check()


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RLHF_ROOT", str(tmp_path / ("long" * 20)))
    with pytest.raises(
        ConfigError, match=r"supervisor.sock: a socket's path has at most 99 bytes; move the project to"
    ):
        Services().check()


def test_clients_are_told_where_and_let_in(project_root: Path, monkeypatch: pytest.MonkeyPatch):
    assert Services(prefect_port=4300).client_environment() == {
        "PREFECT_API_URL": "http://127.0.0.1:4300/api",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
    }
    assert Services("0.0.0.0").prefect_url == "http://127.0.0.1:4200"
    monkeypatch.setenv(PASSWORD_VARIABLE, SECRET)
    given = Services(login_from="variable")
    assert given.client_environment()["PREFECT_API_AUTH_STRING"] == f"rlhf:{SECRET}"
    assert SECRET not in " ".join(given.mlflow_command())


def test_both_servers_share_one_postgresql_database(project_root: Path):
    environment = Services(database="postgresql://me@db:5433/pipeline").environment()
    assert environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == "postgresql+asyncpg://me@db:5433/pipeline"
    assert environment["MLFLOW_BACKEND_STORE_URI"] == (
        "postgresql+psycopg://me@db:5433/pipeline?options=-csearch_path%3Dmlflow"
    )


def test_services_that_are_up_are_found_and_only_then(project_root: Path):
    assert running() is None
    chosen = Services(prefect_port=4300, mlflow_port=5300)
    with services_running(chosen):
        assert running() == chosen
        with pytest.raises(LockedError, match="are up already"), services_running(chosen):
            pass
        assert running() == chosen
    assert running() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "127.0.0.1"}'])
def test_a_damaged_note_of_where_they_are_is_named(project_root: Path, text: str):
    file = project_root / ".rlhf" / "services" / "up.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"up.json: the file in which `rlhf up` notes its addresses is damaged"):
        running()

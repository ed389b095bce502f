"""Where the services are, who may use them, and how the project's other commands find them."""

from pathlib import Path

import pytest

from rlhf.errors import ConfigError
from rlhf.services import PASSWORD_VARIABLE, Services, being_up, running

SECRET = "correct horse battery"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::"])
def test_another_address_needs_a_password(host: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=f"{host} lets other machines in"):
        Services(host).check()
    monkeypatch.setenv(PASSWORD_VARIABLE, SECRET)
    Services(host).check()


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
    assert Services().client_environment()["PREFECT_API_AUTH_STRING"] == f"rlhf:{SECRET}"
    assert SECRET not in " ".join(Services().mlflow_command())


def test_both_servers_share_one_postgresql_database(project_root: Path):
    environment = Services(database="postgresql://me@db:5433/pipeline").environment()
    assert environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == "postgresql+asyncpg://me@db:5433/pipeline"
    assert environment["MLFLOW_BACKEND_STORE_URI"] == (
        "postgresql+psycopg://me@db:5433/pipeline?options=-csearch_path%3Dmlflow"
    )


def test_services_that_are_up_are_found_and_only_then(project_root: Path):
    assert running() is None
    chosen = Services(prefect_port=4300, mlflow_port=5300)
    with being_up(chosen):
        assert running() == chosen
        with pytest.raises(ConfigError, match="are up already"), being_up(chosen):
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

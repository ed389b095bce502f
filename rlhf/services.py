"""The two servers that `rlhf up` starts: where they are, and the environment by which clients and servers agree."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from filelock import FileLock, Timeout

from rlhf.errors import ConfigError
from rlhf.project import artifacts_folder, root, tracking_database

PASSWORD_VARIABLE = "RLHF_PASSWORD"
DATABASE_VARIABLE = "RLHF_DATABASE"
"""In place of --database, where the address holds a password: others see a process's arguments."""
USER = "rlhf"
_LEAST_PASSWORD = 12  # MLflow takes no shorter one
# Linux has 108 bytes for the path; one ends it, and supervisord first binds a name with its process id behind it.
_LONGEST_SOCKET = 107 - len(".4194304")
_LAST_PORT = 65535
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SCHEMAS = {"prefect": "prefect,public", "mlflow": "mlflow"}


@dataclass(frozen=True)
class Services:
    """What a person chose.

    Attributes:
        host: address that both servers listen at.
        prefect_port: of Prefect's API and UI.
        mlflow_port: of MLflow's.
        database: `postgresql://...` for both, in schemas of their own; None for SQLite files of the project.
    """

    host: str = "127.0.0.1"
    prefect_port: int = 4200
    mlflow_port: int = 5000
    database: str | None = None

    @property
    def prefect_url(self) -> str:
        """Where Prefect's UI is."""
        return f"http://{self._reached_at}:{self.prefect_port}"

    @property
    def mlflow_url(self) -> str:
        """Where MLflow's UI is, and what clients call."""
        return f"http://{self._reached_at}:{self.mlflow_port}"

    @property
    def store(self) -> str:
        """MLflow's own store, as its server opens it."""
        return f"sqlite:///{tracking_database()}" if self.database is None else _of_mlflow(self.database)

    @property
    def _reached_at(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104  # asked for, with a password
        return f"[{host}]" if ":" in host else host

    def check(self) -> None:
        """Refuse what cannot work, or would be open to strangers.

        Raises:
            ConfigError: says which flag or variable is wrong.
        """
        password = os.environ.get(PASSWORD_VARIABLE)
        if self.host not in _LOOPBACK and not password:
            raise ConfigError(
                f"--host {self.host} lets other machines in, and no password is set; set {PASSWORD_VARIABLE} "
                f"(at least {_LEAST_PASSWORD} characters), or leave --host away"
            )
        if password and len(password) < _LEAST_PASSWORD:
            raise ConfigError(f"{PASSWORD_VARIABLE} has fewer than {_LEAST_PASSWORD} characters; take a longer one")
        for name, port in (("prefect", self.prefect_port), ("mlflow", self.mlflow_port)):
            if not 0 < port <= _LAST_PORT:
                raise ConfigError(f"--{name}-port {port}: expected a port from 1 to {_LAST_PORT}")
        if self.prefect_port == self.mlflow_port:
            raise ConfigError(f"--prefect-port and --mlflow-port are both {self.mlflow_port}; change one of the two")
        if self.database is not None and urlsplit(self.database).scheme != "postgresql":
            raise ConfigError("--database is not of the form postgresql://USER@HOST:PORT/NAME")
        too_long = len(os.fsencode(socket_path())) - _LONGEST_SOCKET
        if too_long > 0:
            raise ConfigError(
                f"{socket_path()}: a socket's path has at most {_LONGEST_SOCKET} bytes; move the project to a folder "
                f"whose path is {too_long} bytes shorter"
            )

    def client_environment(self) -> dict[str, str]:
        """By which Prefect's and MLflow's clients find the servers, and are let in."""
        environment = {"PREFECT_API_URL": f"{self.prefect_url}/api", "MLFLOW_TRACKING_URI": self.mlflow_url}
        password = os.environ.get(PASSWORD_VARIABLE)
        if password:
            environment |= {
                "PREFECT_API_AUTH_STRING": f"{USER}:{password}",
                "MLFLOW_TRACKING_USERNAME": USER,
                "MLFLOW_TRACKING_PASSWORD": password,
            }
        return environment

    def environment(self) -> dict[str, str]:
        """Of the servers and of the worker. Secrets stand here and in no file."""
        environment = self.client_environment() | {
            # Other browsers know this machine by another name, so the UI asks where it came from.
            "PREFECT_SERVER_UI_API_URL": f"{self.prefect_url}/api" if self.host in _LOOPBACK else "/api",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            # A person who has submitted a form looks at the page.
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            # The slots that runs hold are known again after the server was restarted.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            # Their logs are files of their own.
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_BACKEND_STORE_URI": self.store,
            "RLHF_ROOT": str(root()),
        }
        if self.database is not None:
            environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = _of_prefect(self.database)
            environment["PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_SEARCH_PATH"] = _SCHEMAS["prefect"]
        password = os.environ.get(PASSWORD_VARIABLE)
        if password:
            environment |= {
                "PREFECT_SERVER_API_AUTH_STRING": f"{USER}:{password}",
                "MLFLOW_AUTH_CONFIG_PATH": str(services_folder() / "mlflow-auth.ini"),
                "MLFLOW_AUTH_ADMIN_PASSWORD": password,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
            }
        return environment

    def mlflow_command(self) -> list[str]:
        """Arguments of `mlflow server`. The store, which may hold a password, goes by the environment."""
        command = ["server", "--host", self.host, "--port", str(self.mlflow_port), "--workers", "1"]
        command += ["--serve-artifacts", "--artifacts-destination", artifacts_folder().as_uri()]
        return [*command, "--app-name", "basic-auth"] if os.environ.get(PASSWORD_VARIABLE) else command


def services_folder() -> Path:
    """Logs, socket and settings of what `rlhf up` has started."""
    return root() / ".rlhf" / "services"


def socket_path() -> Path:
    """By which the services' supervisor is spoken to."""
    return services_folder() / "supervisor.sock"


@contextmanager
def being_up(services: Services) -> Iterator[None]:
    """Let other commands of this project find the services while the block lasts.

    Raises:
        ConfigError: they are up already.
    """
    folder = services_folder()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "up.lock", timeout=0):
            file = folder / "up.json"
            file.write_text(json.dumps({"host": services.host, "ports": [services.prefect_port, services.mlflow_port]}))
            try:
                yield
            finally:
                file.unlink()
    except Timeout:
        raise ConfigError(f"the services of {root()} are up already; `rlhf down` stops them") from None


def running() -> Services | None:
    """The services of this project that are up; None where none are."""
    known = last_known()
    if known is None:
        return None
    try:
        with FileLock(services_folder() / "up.lock", timeout=0):
            return None
    except Timeout:
        return known


def last_known() -> Services | None:
    """The services that were up last and were not stopped in order, whether `rlhf up` still lives or not.

    Raises:
        ConfigError: the file that says so is damaged.
    """
    file = services_folder() / "up.json"
    if not file.is_file():
        return None
    try:
        known = json.loads(file.read_text())
        return Services(known["host"], *known["ports"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file}: the file in which `rlhf up` notes its addresses is damaged ({error!r}); stop `rlhf up` where it "
            "runs, remove the file, and start it again"
        ) from None


def prepare_database(database: str) -> None:
    """Make the schemas that the two servers have in one PostgreSQL database.

    Raises:
        ConfigError: the database does not answer, or refuses.
    """
    import psycopg

    try:
        with psycopg.connect(database, connect_timeout=5) as connection:
            for schema in _SCHEMAS:
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}".encode())
    except psycopg.Error as error:
        where = f"{urlsplit(database).hostname}:{urlsplit(database).port or 5432}"
        raise ConfigError(f"--database: PostgreSQL at {where} does not do: {error}".strip()) from None


def _of_prefect(database: str) -> str:
    return database.replace("postgresql://", "postgresql+asyncpg://", 1)


def _of_mlflow(database: str) -> str:
    joint = "&" if urlsplit(database).query else "?"
    options = quote(f"-csearch_path={_SCHEMAS['mlflow']}")
    return f"{database.replace('postgresql://', 'postgresql+psycopg://', 1)}{joint}options={options}"

"""The two servers that `rlhf up` starts: where they are, who may use them, and the environment that says so.

A password is made at the first start unless one is given, also on loopback: a port of this machine is open to its other
users, and to the pages in a browser. docs/security.md has the whole.
"""

import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from rlhf.errors import ConfigError
from rlhf.files.atomic import write_file
from rlhf.files.locks import is_locked, locked
from rlhf.paths import artifacts_folder, local_folder, root, tracking_database
from rlhf.services.postgresql import DATABASE_VARIABLE, SCHEMAS, check_address, for_mlflow, for_prefect

PASSWORD_VARIABLE = "RLHF_PASSWORD"
NAMES_VARIABLE = "RLHF_SERVER_NAMES"
"""The variable that tells `rlhf.services.own_site` the names of `Services.names`."""
HOSTS_VARIABLE = "RLHF_ALLOWED_HOSTS"
"""Further names, with commas between them, by which people reach the servers, such as that of a proxy."""
USER = "rlhf"
_LEAST_PASSWORD = 12  # MLflow takes no shorter one
# Linux has 108 bytes for the path; one ends it, and supervisord first binds a name with its process id behind it.
_LONGEST_SOCKET = 107 - len(".4194304")
_LAST_PORT = 65535
_DESTINATIONS = ("s3", "gs", "wasbs", "file")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_ANY = ("0.0.0.0", "::")  # noqa: S104  # asked for, with a password

LoginFrom = Literal["variable", "file", "none"]


@dataclass(frozen=True)
class Services:
    """The choices of a person.

    Attributes:
        host: address that both servers listen at.
        prefect_port: of Prefect's API and UI.
        mlflow_port: of MLflow's.
        database: `postgresql://...` for both, in schemas of their own; None for SQLite files of the project.
        database_given: the flag or variable that the database was given by, for messages.
        artifacts: where MLflow's server keeps artifacts, such as `s3://BUCKET/FOLDER`; None for the project's folder.
        login_from: what the servers ask for: what `RLHF_PASSWORD` holds (`variable`), what was made at the first
            start and is kept in `password_file()` (`file`), or nothing (`none`).
    """

    host: str = "127.0.0.1"
    prefect_port: int = 4200
    mlflow_port: int = 5000
    database: str | None = None
    database_given: str = DATABASE_VARIABLE
    login_from: LoginFrom = "file"
    artifacts: str | None = None

    @property
    def prefect_url(self) -> str:
        """The address of Prefect's UI."""
        return f"http://{self._reached_at}:{self.prefect_port}"

    @property
    def mlflow_url(self) -> str:
        """The address of MLflow's UI, which clients call as well."""
        return f"http://{self._reached_at}:{self.mlflow_port}"

    @property
    def store(self) -> str:
        """MLflow's own store, as its server opens it."""
        return f"sqlite:///{tracking_database()}" if self.database is None else for_mlflow(self.database)

    @property
    def _reached_at(self) -> str:
        host = "127.0.0.1" if self.host in _ANY else self.host
        return f"[{host}]" if ":" in host else host

    @property
    def password(self) -> str | None:
        """The password of the servers, as far as this process knows it; None where they ask for none."""
        if self.login_from == "variable":
            return os.environ.get(PASSWORD_VARIABLE)
        file = password_file()
        return file.read_text(encoding="utf-8").strip() if self.login_from == "file" and file.is_file() else None

    @property
    def login(self) -> str | None:
        """Who is let in, for people; None where nobody is asked."""
        where = {"file": str(password_file()), "variable": f"the variable {PASSWORD_VARIABLE}"}.get(self.login_from)
        return where and f"Both ask for user {USER} and the password in {where}"

    @property
    def names(self) -> list[str]:
        """The names of the servers; a request for any other Host comes from a foreign page."""
        own = [self.host]
        if self.host in _ANY:
            import psutil

            addresses = [address for interface in psutil.net_if_addrs().values() for address in interface]
            own = [socket.gethostname(), *(address.address.split("%")[0] for address in addresses)]
        given = [name.strip() for name in os.environ.get(HOSTS_VARIABLE, "").split(",")]
        return list(dict.fromkeys(name.lower() for name in (*_LOOPBACK, *own, *given) if name))

    def check(self) -> None:
        """Refuse what cannot work, or would be open to strangers.

        Raises:
            ConfigError: says which flag or variable is wrong.
        """
        given = os.environ.get(PASSWORD_VARIABLE)
        if self.login_from == "none" and self.host not in _LOOPBACK:
            raise ConfigError(
                f"--host {self.host} lets other machines in, and --no-password would let them start runs; leave one of "
                "the two away"
            )
        if self.login_from == "none" and given:
            raise ConfigError(f"--no-password is given and {PASSWORD_VARIABLE} is set; leave one of the two away")
        if self.login_from == "variable" and len(given or "") < _LEAST_PASSWORD:
            raise ConfigError(
                f"{PASSWORD_VARIABLE} has fewer than {_LEAST_PASSWORD} characters; take a longer one, or unset it, and "
                "one is made"
            )
        for name, port in (("prefect", self.prefect_port), ("mlflow", self.mlflow_port)):
            if not 0 < port <= _LAST_PORT:
                raise ConfigError(f"--{name}-port {port}: expected a port from 1 to {_LAST_PORT}")
        if self.prefect_port == self.mlflow_port:
            raise ConfigError(f"--prefect-port and --mlflow-port are both {self.mlflow_port}; change one of the two")
        if self.database is not None:
            check_address(self.database, self.database_given)
        if self.artifacts is not None and urlsplit(self.artifacts).scheme not in _DESTINATIONS:
            raise ConfigError(
                f"--artifacts-destination {self.artifacts}: expected s3://BUCKET/FOLDER, gs://..., wasbs://... or "
                "file:///FOLDER"
            )
        too_long = len(os.fsencode(socket_path())) - _LONGEST_SOCKET
        if too_long > 0:
            raise ConfigError(
                f"{socket_path()}: a socket's path has at most {_LONGEST_SOCKET} bytes; move the project to a folder "
                f"whose path is {too_long} bytes shorter"
            )

    def client_environment(self) -> dict[str, str]:
        """The variables by which Prefect's and MLflow's clients find the servers and log in."""
        environment = {"PREFECT_API_URL": f"{self.prefect_url}/api", "MLFLOW_TRACKING_URI": self.mlflow_url}
        password = self.password
        if password:
            environment |= {
                "PREFECT_API_AUTH_STRING": f"{USER}:{password}",
                "MLFLOW_TRACKING_USERNAME": USER,
                "MLFLOW_TRACKING_PASSWORD": password,
            }
        return environment

    def environment(self) -> dict[str, str]:
        """The environment of the servers and of the worker. Secrets stand here and in no file."""
        environment = self.client_environment() | {
            # A machine has several names, and the UI asks where it came from.
            "PREFECT_SERVER_UI_API_URL": "/api",
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": self.prefect_url,
            "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
            # A person who has submitted a form looks at the page.
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            # The slots that runs hold are known again after the server was restarted.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            # Their logs are files of their own.
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_BACKEND_STORE_URI": self.store,
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(self._with_ports()),
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(
                f"{scheme}://{name}" for scheme in ("http", "https") for name in self._with_ports()
            ),
            "RLHF_ROOT": str(root()),
            NAMES_VARIABLE: ",".join(self.names),
        }
        if self.database is not None:
            environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = for_prefect(self.database)
            environment["PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_SEARCH_PATH"] = SCHEMAS["prefect"]
        password = self.password
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
        command += ["--serve-artifacts", "--artifacts-destination", self.artifacts or artifacts_folder().as_uri()]
        return [*command, "--app-name", "rlhf"]

    def _with_ports(self) -> list[str]:
        """The names as MLflow compares them, by pattern: without a port, and with any, which a proxy may have.

        `rlhf.services.own_site`, which is asked before it, wants Origin and Host to be the same, with their ports.
        """
        hosts = [f"[{name}]" if ":" in name else name for name in self.names]
        return [*hosts, *(f"{host.replace('[', '[[]')}:*" for host in hosts)]


def services_folder() -> Path:
    """Logs, socket and settings of what `rlhf up` has started."""
    return local_folder("services")


def password_file() -> Path:
    """The file of the password that was made at the first start, for its owner alone."""
    return services_folder() / "password"


def make_password() -> str:
    """Make a password and keep it, with mode 0600."""
    file = password_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    password = secrets.token_urlsafe(24)
    file.touch(mode=0o600)
    file.chmod(0o600)
    file.write_text(f"{password}\n", encoding="utf-8")
    return password


def socket_path() -> Path:
    """The socket of the services' supervisor."""
    return services_folder() / "supervisor.sock"


@contextmanager
def services_running(services: Services) -> Iterator[None]:
    """Let other commands of this project find the services while the block lasts.

    Raises:
        LockedError: they are up already.
    """
    busy = f"the services of {root()} are up already; `rlhf down` stops them"
    with locked(services_folder() / "up.lock", busy, timeout=0):
        file = services_folder() / "up.json"
        ports = [services.prefect_port, services.mlflow_port]
        write_file(file, json.dumps({"host": services.host, "ports": ports, "password": services.login_from}))
        try:
            yield
        finally:
            file.unlink()


def running() -> Services | None:
    """The services of this project that are up; None where none are."""
    known = last_address()
    return known if is_locked(services_folder() / "up.lock") else None


def last_address() -> Services | None:
    """The services that were up last and were not stopped in order, whether `rlhf up` still lives or not.

    Raises:
        ConfigError: the file that says so is damaged.
    """
    file = services_folder() / "up.json"
    if not file.is_file():
        return None
    try:
        known = json.loads(file.read_text())
        prefect_port, mlflow_port = known["ports"]
        return Services(known["host"], prefect_port, mlflow_port, login_from=known["password"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file}: the file in which `rlhf up` notes its addresses is damaged ({error!r}); stop `rlhf up` where it "
            "runs, remove the file, and start it again"
        ) from None

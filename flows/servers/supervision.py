"""The processes of `rlhf up`, under supervisord: started, kept up, stopped in order, with a log each."""

import os
import subprocess
import sys
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.servers.waiting import wait_until
from rlhf.errors import RLHFError
from rlhf.paths import source_root, umask
from rlhf.services.settings import Services, services_folder, socket_path

START_SECONDS = 60.0
STOP_SECONDS = 60.0
_LAST_LINES = 15
# The lower a priority the earlier it starts and the later it stops.
_PROGRAM = """
[program:{name}]
command = {command}
directory = {directory}
priority = {priority}
autostart = {autostart}
autorestart = true
startsecs = 3
startretries = 3
stopwaitsecs = 20
stopasgroup = true
killasgroup = true
redirect_stderr = true
stdout_logfile = {log}
stdout_logfile_maxbytes = 20MB
stdout_logfile_backups = 2
"""
_SUPERVISOR = """[supervisord]
nodaemon = true
logfile = {folder}/supervisord.log
pidfile = {folder}/supervisord.pid
childlogdir = {folder}
umask = {umask:03o}

[unix_http_server]
file = {socket}
chmod = 0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""


class ServiceError(RLHFError):
    """A server or the worker does not start, or is not there."""


@dataclass(frozen=True)
class Supervisor:
    """A running supervisord, spoken to through its socket.

    Attributes:
        socket: path of the socket.
    """

    socket: Path

    def start(self, name: str) -> None:
        """Start a program and wait until it has been up for three seconds."""
        try:
            self._call("startProcess", name)
        except xmlrpc.client.Fault as fault:
            raise ServiceError(
                f"{name} does not start ({fault.faultString}); its last words:\n{last_words(name)}"
            ) from None

    def stop(self, name: str) -> None:
        """Stop a program, and wait for its end."""
        try:
            self._call("stopProcess", name)
        except xmlrpc.client.Fault as fault:
            if "NOT_RUNNING" not in fault.faultString:
                raise

    def restart(self, name: str) -> None:
        """Stop a program, by force where it does not listen, and start it. Where it does not start its log says why."""
        self.stop(name)
        with suppress(xmlrpc.client.Fault):
            self._call("startProcess", name, False)

    def state(self, name: str) -> str:
        """Supervisord's word for a program's state, such as RUNNING or FATAL."""
        return str(self._call("getProcessInfo", name)["statename"])

    def pid(self, name: str) -> int:
        """The process id of a program; 0 where it is not up."""
        return int(self._call("getProcessInfo", name)["pid"])

    def shut_down(self) -> None:
        """Stop all programs, the last started first."""
        try:
            self._call("shutdown")
        except (OSError, xmlrpc.client.Fault) as error:
            raise ServiceError(f"the services could not be told to stop: {error}") from error

    def is_up(self) -> bool:
        """Whether supervisord answers."""
        try:
            self._call("getState")
        except OSError:
            return False
        except xmlrpc.client.Fault:  # it answers, if only that it is shutting down
            return True
        return True

    def _call(self, method: str, *arguments: object) -> Any:
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        # The address is never looked at; the transport knows where the socket is.
        with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)


def supervisor() -> Supervisor:
    """The supervisor of this project, whether it is up or not."""
    return Supervisor(socket_path())


@contextmanager
def started(services: Services) -> Iterator["subprocess.Popen[bytes]"]:
    """Start supervisord with both servers; the worker follows once there is something to work on.

    It runs in a session of its own, so that Ctrl-C in a terminal does not reach it before the runs were cancelled.
    """
    folder = services_folder()
    (folder / "supervisord.conf").write_text(_configuration(services))
    command = [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(folder / "supervisord.conf")]
    with (folder / "supervisord.out").open("w") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | services.environment(),
            start_new_session=True,
        )
    try:
        _wait_for_socket(process)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()


def last_words(name: str) -> str:
    """The end of a program's log."""
    log = services_folder() / f"{name}.log"
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return "\n".join(f"  {line}" for line in lines[-_LAST_LINES:])


def _configuration(services: Services) -> str:
    folder = services_folder()
    programs = {
        "prefect": ("python", ["-m", "flows.servers.prefect_app", services.host, str(services.prefect_port)]),
        "mlflow": ("mlflow", services.mlflow_command()),
        "worker": ("prefect", ["worker", "start", "--pool", "rlhf", "--type", "process", "--name", "rlhf"]),
    }
    text = _SUPERVISOR.format(folder=_escaped(folder), socket=_escaped(supervisor().socket), umask=umask())
    for priority, (name, (program, arguments)) in enumerate(programs.items(), start=1):
        command = [str(Path(sys.executable).parent / program), *arguments]
        text += _PROGRAM.format(
            name=name,
            command=" ".join(f'"{_escaped(part)}"' for part in command),
            directory=_escaped(source_root()),
            priority=priority,
            autostart="false" if name == "worker" else "true",
            log=_escaped(folder / f"{name}.log"),
        )
    return text


def _escaped(value: object) -> str:
    """Supervisord expands %(...)s."""
    return str(value).replace("%", "%%")


def _wait_for_socket(process: "subprocess.Popen[bytes]") -> None:
    wait_until(lambda: supervisor().is_up() or process.poll() is not None, START_SECONDS, every=0.1)
    if not supervisor().is_up():
        said = (services_folder() / "supervisord.out").read_text(errors="replace")
        raise ServiceError(f"supervisord did not start: {said}")

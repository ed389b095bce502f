"""Starts the processes of one run, and stands for them where the stage was called.

Metrics, progress and log lines of the first process come through a connection as they arise. An error in any process
ends all of them and is raised here; the end of this process, however it comes, ends them too.
"""

import importlib
import json
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from rlhf.errors import RLHFError
from rlhf.policy.distributed import LostProcessError, ProcessesError
from rlhf.progress import report_progress
from rlhf.rl.request import RLRequest
from rlhf.workspace import MetricLog, Workspace

END_SECONDS = 10.0
"""How long a process may take to end once it was told to."""
FAIL_SECONDS = 3.0
"""How long the others are watched after one failed: the one that died first may not be the one that was seen first."""


@dataclass(frozen=True)
class Worker:
    """A process that was started.

    Attributes:
        name: what messages call it.
        process: the process.
        connection: its messages come through here.
        log: the file of what it prints.
        errors: what it said that it ended with; at most one.
    """

    name: str
    process: "subprocess.Popen[bytes]"
    connection: "Connection[bytes, bytes]"
    log: Path
    errors: list[dict[str, Any]] = field(default_factory=list)


def train_in_processes(request: RLRequest, workspace: Workspace) -> None:
    """Run `rlhf.rl.stage.train_from_rollouts` in `compute.num_processes` processes on this machine.

    Args:
        request: what it was called with.
        workspace: of this attempt; its metrics are logged in this process.

    Raises:
        RLHFError: whatever one of them raised.
        ProcessesError: one of them died, or raised something that is not ours.
    """
    folder, num_processes = workspace.checkpoints / "processes", request.setup.compute.num_processes
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "request.json"
    file.write_text(request.model_dump_json(indent=2) + "\n")
    with ExitStack() as stack:
        store = _rendezvous_store()
        workers = []
        for rank in range(num_processes):
            environment = _environment(num_processes, store.port) | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            name, log = process_name(rank, num_processes), folder / f"process_{rank}.log"
            workers.append(stack.enter_context(start_worker(name, "rlhf.rl.worker", file, environment, log)))
        follow(workers, workspace.log_metrics)


def process_name(rank: int, num_processes: int) -> str:
    """The name of a process in messages."""
    return f"process {rank} of {num_processes} (counted from 0)"


def importing_environment() -> dict[str, str]:
    """This process's environment, in which another process sees the modules that this one sees."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}


def _rendezvous_store() -> TCPStore:
    """Where the processes find each other: at a port of the loopback that the system chooses and this process keeps."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    return TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())


def _environment(num_processes: int, port: int) -> dict[str, str]:
    """Variables that `torchrun` would set, and the modules that this process sees."""
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    talking = {"GLOO_SOCKET_IFNAME": loopback} if loopback else {}
    return (
        talking
        | importing_environment()
        | {
            "WORLD_SIZE": str(num_processes),
            "LOCAL_WORLD_SIZE": str(num_processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is here, and not in the first process
        }
    )


@contextmanager
def start_worker(name: str, module: str, request: Path, environment: Mapping[str, str], log: Path) -> Iterator[Worker]:
    """A process in a session of its own, so that Ctrl-C in a terminal is for this process to handle.

    Args:
        name: what messages call it.
        module: that it runs.
        request: the file that says what to do.
        environment: its own.
        log: the file of what it prints.
    """
    connection, theirs = multiprocessing.Pipe()
    with theirs, log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(request), "--connection", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    try:
        yield Worker(name, process, connection, log)
    finally:
        connection.close()  # it ends by that
        try:
            process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def follow(workers: Sequence[Worker], log_metrics: MetricLog) -> None:
    """Pass on what the processes send, until all of them ended well.

    Raises:
        RLHFError: the error of the process that failed first.
    """
    running = {worker.connection: worker for worker in workers}
    while running:
        for connection in wait(list(running)):
            worker = running[connection]  # type: ignore[index]
            if _take_message(worker, log_metrics):
                continue
            del running[worker.connection]
            if worker.process.wait() != 0:
                raise _failure(workers, log_metrics)


def _take_message(worker: Worker, log_metrics: MetricLog) -> bool:
    """Act on a message; False where there will be none any more."""
    try:
        message = json.loads(worker.connection.recv_bytes())
    except (EOFError, ConnectionError):
        return False
    if message["kind"] == "metrics":
        log_metrics(message["metrics"], message["step"])
        with suppress(ConnectionError):
            worker.connection.send_bytes(b"taken")
    elif message["kind"] == "progress":
        report_progress(message["stage"], message["done"], message["total"])
    elif message["kind"] == "log":
        logging.getLogger(message["logger"]).log(message["level"], "%s", message["message"])
    elif message["kind"] == "error":
        worker.errors.append(message)
    return True


def _failure(workers: Sequence[Worker], log_metrics: MetricLog) -> RLHFError:
    """The error of the process that failed first: another one's may be that it misses it."""
    deadline = time.monotonic() + FAIL_SECONDS
    for worker in workers:
        try:
            worker.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            continue
        while not worker.connection.closed and worker.connection.poll() and _take_message(worker, log_metrics):
            pass
    failed = [worker for worker in workers if worker.process.poll() not in (None, 0)]
    return _error_of(min(failed, key=_error_priority))


def _error_priority(worker: Worker) -> int:
    """How far from the cause: an error of ours, another error, a death without a word, the loss of another process."""
    if not worker.errors:
        return 2
    error = worker.errors[0]
    if error["name"] == LostProcessError.__name__:
        return 3
    return 0 if error["is_ours"] else 1


def _error_of(worker: Worker) -> RLHFError:
    who = worker.errors[0].get("who", worker.name) if worker.errors else worker.name
    if not worker.errors:
        last = worker.log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
        return ProcessesError(
            f"{who} {_ending(worker.process.returncode)}; the last it said was {last[0]!r}, the rest is in "
            f"{worker.log}. The same command goes on from the last checkpoint"
        )
    described = worker.errors[0]
    error = _rebuilt(described) if described["is_ours"] else None
    if error is None:
        error = ProcessesError(f"{who} failed with {described['name']}: {described['message']}")
    error.add_note(f"In {who}:\n{described['traceback']}")
    return error


def _rebuilt(described: Mapping[str, Any]) -> RLHFError:
    """The error as it was raised there, its attributes included."""
    kind = getattr(importlib.import_module(described["module"]), described["name"])
    error: RLHFError = kind.__new__(kind, described["message"])
    error.__dict__.update(described["attributes"])
    return error


def _ending(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    name = signal.Signals(-returncode).name
    hint = ", perhaps because memory ran out" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"

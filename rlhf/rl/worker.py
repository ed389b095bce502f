"""One process of a run that several share: `python -m rlhf.rl.worker REQUEST.json`.

The stage starts its own (`rlhf.rl.launch`) and leaves the request of its last run in
`CHECKPOINTS/processes/request.json`. By hand, on one machine or on several that share a disk, it is

    torchrun --nproc-per-node 2 -m rlhf.rl.worker REQUEST.json
    accelerate launch --multi_gpu --num_processes 2 -m rlhf.rl.worker REQUEST.json

and the first process adds its metrics to `metrics.jsonl` in the request's `report` folder.
"""

import argparse
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rlhf.errors import RLHFError
from rlhf.paths import configure_environment
from rlhf.progress import watching
from rlhf.rl.request import RLRequest
from rlhf.text.terminal import say
from rlhf.workspace import MetricLog, Workspace


class ParentConnection:
    """The process that started this one, at the other end of a connection. Without it this one ends, whatever it does.

    Metrics are handed over as they would be to a function in this process: the next step begins once they were taken,
    so that no checkpoint is ahead of them.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._taken = threading.Semaphore(0)
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, kind: str, **content: Any) -> None:
        """Send a message."""
        with self._sending:
            self._connection.send_bytes(json.dumps({"kind": kind, **content}).encode())

    def log_metrics(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Hand metrics over, and wait until they were taken."""
        self.send("metrics", metrics=dict(metrics), step=step)
        self._taken.acquire()

    def report_progress(self, stage: str, done: int, total: int) -> None:
        """A watcher for `rlhf.progress`."""
        self.send("progress", stage=stage, done=done, total=total)

    def report_error(self, error: BaseException) -> None:
        """Say what this process ends with, so that it can be raised there."""
        self.send("error", **described_error(error))

    def _listen(self) -> None:
        try:
            while True:
                self._connection.recv_bytes()
                self._taken.release()
        except (EOFError, OSError):
            os._exit(1)


class LogLines(logging.Handler):
    """Sends log lines to the parent."""

    def __init__(self, parent: ParentConnection) -> None:
        super().__init__()
        self.parent = parent

    def emit(self, record: logging.LogRecord) -> None:
        """Send one."""
        self.parent.send("log", logger=record.name, level=record.levelno, message=self.format(record))


def described_error(error: BaseException) -> dict[str, Any]:
    """An error as JSON, from which `rlhf.rl.launch` makes it again in another process."""
    kind = type(error)
    return {
        "module": kind.__module__,
        "name": kind.__qualname__,
        "is_ours": isinstance(error, RLHFError),
        "message": str(error),
        "attributes": vars(error) if isinstance(error, RLHFError) else {},
        "traceback": "".join(traceback.format_exception(error)),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Do this process's part of a run.

    Returns:
        The exit code: 0, or that of the error.
    """
    parser = argparse.ArgumentParser(prog="python -m rlhf.rl.worker", description=__doc__)
    parser.add_argument("request", type=Path, help="JSON file that says what to train")
    parser.add_argument("--connection", type=int, help="file descriptor of the process that started this one")
    options = parser.parse_args(arguments)
    request = RLRequest.model_validate_json(options.request.read_bytes())
    configure_environment()
    rlhf_logger = logging.getLogger("rlhf")
    is_first = os.environ.get("RANK", "0") == "0"
    rlhf_logger.setLevel(logging.INFO if is_first else logging.CRITICAL + 1)
    if options.connection is None:
        logging.basicConfig(format="%(message)s")
        return _by_hand(request)
    os.set_inheritable(options.connection, False)
    parent = ParentConnection(Connection(options.connection))
    rlhf_logger.addHandler(LogLines(parent))
    return _for_parent(request, parent)


def _by_hand(request: RLRequest) -> int:
    try:
        _train(request, _file_log(request.report / "metrics.jsonl"))
    except RLHFError as error:
        say(f"rlhf: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _for_parent(request: RLRequest, parent: ParentConnection) -> int:
    try:
        with watching(parent.report_progress):
            _train(request, parent.log_metrics)
    except BaseException as error:  # noqa: BLE001  # the parent raises it
        parent.report_error(error)
        return 1
    return 0


def _train(request: RLRequest, log_metrics: MetricLog) -> None:
    from rlhf.rl.stage import train_from_rollouts

    workspace = Workspace(request.output, request.report, request.checkpoints, log_metrics)
    for folder in (workspace.output, workspace.report, workspace.checkpoints):
        folder.mkdir(parents=True, exist_ok=True)
    train_from_rollouts(
        request.method, request.rl, request.setup, request.data, request.start, request.reward_models, workspace
    )


def _file_log(path: Path) -> MetricLog:
    def log_metrics(metrics: Mapping[str, float], step: int | None) -> None:
        with path.open("a") as file:
            file.write(json.dumps({"step": step, "metrics": dict(metrics)}) + "\n")

    return log_metrics


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Torch would wait for the other processes, which may wait for this one.
    os._exit(code)

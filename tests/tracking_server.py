"""A real MLflow server in a process of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
from ports import free_port


class Server:
    """An MLflow server that can be stopped and started again."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.port = free_port()
        self.command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(folder / "served")),
            *("--workers", "1"),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        # As under `rlhf up`: MLflow starts five processes for jobs otherwise, which nothing here uses.
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        self.process = subprocess.Popen(
            self.command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        for _ in range(1200):
            try:
                if httpx.get(f"{self.url}/health").status_code == 200:
                    return
            except httpx.ConnectError:
                time.sleep(0.1)
        raise AssertionError("the MLflow server did not start")

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
        self.process = None

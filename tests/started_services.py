"""`rlhf up` in a process of its own, on ports of its own, and what a person would do with it."""

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from mlflow.tracking import MlflowClient
from ports import free_port

START_SECONDS = 180.0
ROOT = Path(__file__).parents[1]


def wait_for(what: Callable[[], Any], seconds: float = 120.0, every: float = 0.2) -> Any:
    """Call until the answer is true, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds} s"
        time.sleep(every)


def command_line(process: psutil.Process) -> str:
    """Of a process that may end meanwhile, or wait for its parent to ask how it ended; nothing then."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def has_ended(process: psutil.Process) -> bool:
    """Whether its parent has asked how it ended is another matter."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(processes: list[psutil.Process], seconds: float = 60.0) -> None:
    """Wait until all of them have ended."""
    wait_for(lambda: all(has_ended(one) for one in processes), seconds)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code < 500
    except httpx.HTTPError:
        return False


class PatientClient(httpx.Client):
    """A person looks again: the server may be down for a moment, or busy with other writes where it has SQLite.

    As Prefect's own pages do, it says with what changes something that it has asked for a token before.
    """

    def request(self, method: str, *arguments: Any, **keywords: Any) -> httpx.Response:
        def ask() -> httpx.Response | None:
            try:
                if method != "GET" and "Prefect-Csrf-Token" not in self.headers:
                    token = httpx.Client.request(self, "GET", "/csrf-token", params={"client": "tests"})
                    self.headers["Prefect-Csrf-Client"] = "tests"
                    self.headers["Prefect-Csrf-Token"] = token.raise_for_status().json()["token"]
                answer = httpx.Client.request(self, method, *arguments, **keywords)
            except httpx.TransportError:
                return None
            return None if answer.status_code == 503 else answer

        response: httpx.Response = wait_for(ask, 90, every=1.0)
        return response


@dataclass
class Up:
    """A started `rlhf up`."""

    root: Path
    flags: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    with_password: bool = False
    prefect_port: int = field(default_factory=free_port)
    mlflow_port: int = field(default_factory=free_port)

    def start(self, *command: str, last_line: str = "Ctrl-C") -> None:
        """Start them, by `rlhf up` unless another command is given, and read what it says up to a line."""
        up = ["up", *self.flags, *([] if self.with_password else ["--no-password"])]
        self.process = subprocess.Popen(
            self.command(*(command or up), *self.ports),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith(last_line):
                break
        self.said = "".join(said)
        assert "\nCtrl-C" in self.said, self.said

    @property
    def ports(self) -> list[str]:
        return ["--prefect-port", str(self.prefect_port), "--mlflow-port", str(self.mlflow_port)]

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k not in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")}
        own = {"RLHF_ROOT": str(self.root), "PREFECT_HOME": str(self.root / ".prefect")}
        return kept | own | dict(self.variables)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "rlhf.cli", *arguments]

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.communicate(timeout=180)
        return self.process.returncode

    def kill(self) -> None:
        """As if the machine had lost its power: every process at once."""
        processes = [self.process.pid, *self.supervised()]
        everything = [psutil.Process(pid) for pid in processes if psutil.pid_exists(pid)]
        everything += [child for one in everything for child in one.children(recursive=True)]
        for one in dict.fromkeys(everything):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        wait_until_gone(everything, 30)
        self.process.communicate()

    def end(self) -> None:
        """Leave nothing behind, whatever a test has done."""
        if self.process.poll() is None:
            self.kill()
        self.api.close()

    def supervised(self) -> list[int]:
        file = self.root / ".rlhf" / "services" / "supervisord.pid"
        return [int(file.read_text())] if file.is_file() else []

    def processes(self) -> list[psutil.Process]:
        """Servers, worker, and all that they have started."""
        return [child for pid in self.supervised() for child in psutil.Process(pid).children(recursive=True)]

    def works_on_a_flow(self) -> bool:
        """Whether the worker has a flow's process."""
        return any("prefect.engine" in command_line(one) for one in self.processes())

    # Prefect, by its API.

    @functools.cached_property
    def api(self) -> PatientClient:
        address = f"http://127.0.0.1:{self.prefect_port}/api"
        return PatientClient(base_url=address, timeout=60, auth=self.login)

    @property
    def login(self) -> tuple[str, str] | None:
        """User and password; None where the servers ask for neither."""
        if not self.with_password:
            return None
        given = self.variables.get("RLHF_PASSWORD")
        return "rlhf", given or (self.root / ".rlhf" / "services" / "password").read_text().strip()

    def deployments(self) -> dict[str, dict[str, Any]]:
        """All that are registered, by their names."""
        answer = self.api.post("/deployments/filter", json={"limit": 200}).raise_for_status().json()
        return {one["name"]: one for one in answer}

    def deployment(self, name: str) -> dict[str, Any]:
        return self.deployments()[name]

    def submit(self, deployment: str, parameters: Mapping[str, Any]) -> str:
        address = f"/deployments/{self.deployment(deployment)['id']}/create_flow_run"
        run_id: str = self.api.post(address, json={"parameters": parameters}).raise_for_status().json()["id"]
        return run_id

    def flow_runs_of(self, deployment: str) -> list[dict[str, Any]]:
        """Its flow runs, in the order in which they are, or were, due."""
        wanted = {
            "deployments": {"id": {"any_": [self.deployment(deployment)["id"]]}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        answer: list[dict[str, Any]] = self.api.post("/flow_runs/filter", json=wanted).raise_for_status().json()
        return answer

    def flow_run(self, run_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.api.get(f"/flow_runs/{run_id}").raise_for_status().json()
        return answer

    def state(self, run_id: str) -> str:
        return str(self.flow_run(run_id)["state"]["name"])

    def wait_until_ended(self, run_id: str, seconds: float = 240.0) -> str:
        ends = ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut")
        state: str = wait_for(lambda: (s := self.state(run_id)) in ends and s, seconds)
        return state

    def task_states(self, run_id: str) -> list[tuple[str, str]]:
        """Name and state of every task run, the oldest first."""
        wanted = {"flow_runs": {"id": {"any_": [run_id]}}, "limit": 200}
        found = self.api.post("/task_runs/filter", json=wanted).raise_for_status().json()
        return [(one["name"], one["state_name"]) for one in sorted(found, key=lambda one: one["created"])]

    def set_state(self, run_id: str, state: Mapping[str, Any], *, force: bool = False) -> None:
        self.api.post(f"/flow_runs/{run_id}/set_state", json={"state": state, "force": force}).raise_for_status()

    def reachable(self) -> bool:
        return answers(f"http://127.0.0.1:{self.prefect_port}/api/health")

    def mlflow_reachable(self) -> bool:
        return answers(f"http://127.0.0.1:{self.mlflow_port}/health")

    def cancel(self, run_id: str) -> None:
        """What the UI's button does."""
        self.set_state(run_id, {"type": "CANCELLING", "name": "Cancelling"})

    def retry(self, run_id: str) -> None:
        """What a person does: of a killed process Prefect tells twice, and the second may undo the first click."""
        for _ in range(3):
            self.set_state(run_id, {"type": "SCHEDULED", "name": "AwaitingRetry"})
            time.sleep(8)
            if self.state(run_id) != "Crashed":
                return
        raise AssertionError(f"{run_id} cannot be retried")

    def log(self, run_id: str) -> str:
        wanted = {"logs": {"flow_run_id": {"any_": [run_id]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
        return "\n".join(line["message"] for line in self.api.post("/logs/filter", json=wanted).json())

    def artifact(self, run_id: str, key: str) -> Any:
        """The newest content of an artifact of a flow run; None where there is none."""
        wanted = {"artifacts": {"flow_run_id": {"any_": [run_id]}, "key": {"any_": [key]}}, "sort": "CREATED_DESC"}
        found = self.api.post("/artifacts/filter", json=wanted).raise_for_status().json()
        return found[0]["data"] if found else None

    # The run's own process and stores.

    def process_of(self, run_id: str) -> psutil.Process:
        """The process that holds the flow run's lock."""
        file = self.root / ".rlhf" / "pipelines" / f"{run_id}.lock"

        def holder() -> psutil.Process | None:
            inode = str(file.stat().st_ino) if file.exists() else None
            for line in Path("/proc/locks").read_text().splitlines():
                if inode and re.search(rf":{inode} ", line) and "->" not in line:
                    return psutil.Process(int(line.split()[4]))
            return None

        process: psutil.Process = wait_for(holder)
        return process

    def mlflow(self) -> MlflowClient:
        if "--database" in self.flags:
            return MlflowClient(f"http://127.0.0.1:{self.mlflow_port}")
        return MlflowClient(f"sqlite:///{self.root / 'mlruns' / 'mlflow.db'}")

    def has_mlflow_run(self, run_id: str) -> bool:
        client = self.mlflow()
        experiment = client.get_experiment_by_name("rlhf")
        which = f"tags.`prefect.flow_run_id` = '{run_id}'"
        return experiment is not None and bool(client.search_runs([experiment.experiment_id], which))

    def mlflow_runs(self, run_id: str) -> list[Any]:
        """The parent of a flow run and its stages' runs, the oldest first."""
        client = self.mlflow()
        experiment = client.get_experiment_by_name("rlhf")
        assert experiment is not None
        (parent,) = client.search_runs([experiment.experiment_id], f"tags.`prefect.flow_run_id` = '{run_id}'")
        children = client.search_runs(
            [experiment.experiment_id],
            f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'",
            order_by=["start_time ASC"],
        )
        return [parent, *children]

    def checkpoints(self, folder: str) -> list[Path]:
        """Those in a stage's working folder, which a pattern may name."""
        return sorted((self.root / ".rlhf" / "stages").glob(f"{folder}/checkpoints/*_??????"))


def make_project(folder: Path, data: Path, mlflow: Path | None, prefect: Path) -> Path:
    """A project with the embedded data committed, and stores that are migrated already (MLflow's may be elsewhere)."""
    shutil.copytree(data, folder)
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    subprocess.run(["git", "commit", "--quiet", "--message", "The embedded data"], cwd=folder, check=True)
    (folder / "mlruns").mkdir()
    if mlflow is not None:
        shutil.copy(mlflow, folder / "mlruns" / "mlflow.db")
    shutil.copytree(prefect, folder / ".prefect")
    return folder


def continue_project(folder: Path, trained: Path, prefect: Path) -> Path:
    """A copy of a project in which all stages were run, so that a run computes what its settings change."""
    shutil.copytree(trained, folder, symlinks=True)
    shutil.copytree(prefect, folder / ".prefect")
    return folder


@contextmanager
def services(root: Path, *flags: str, with_password: bool = False, **variables: str) -> Iterator[Up]:
    """Start `rlhf up`, without a password unless one is asked for, and leave nothing of it behind."""
    up = Up(root, flags, variables, with_password)
    up.start()
    try:
        yield up
    finally:
        up.end()

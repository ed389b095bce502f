"""Two hosts, each a network namespace with a clone, a name and a disk of its own. Preparation on one, PPO on one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from started_services import ROOT, wait_for

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
PASSWORD = "a password of the tests"
_NET = "10.211.37"


@dataclass
class Host:
    """A namespace and a clone. The other host's folder cannot be seen from it."""

    name: str
    number: int
    folder: Path
    hidden: Path
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        return f"rlhf-test-{self.name}"

    @property
    def address(self) -> str:
        return f"{_NET}.{self.number}"

    def start(self, *command: str, first: str = "", **variables: str) -> "subprocess.Popen[str]":
        """Start `rlhf` there; wait until a line begins so."""
        inner = f'hostname {self.name} && mount -t tmpfs none {self.hidden} && exec "$@"'
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "RLHF_", "PYTHON"))}
        process = subprocess.Popen(
            [
                *("ip", "netns", "exec", self.namespace, "unshare", "--uts", "--mount", "sh", "-c", inner, "sh"),
                *(sys.executable, "-m", "rlhf.cli", *command),
            ],
            cwd=self.folder,
            env=kept | {"PYTHONPATH": str(self.folder), "RLHF_PASSWORD": PASSWORD} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        assert process.stdout is not None
        said = []
        while first:
            line = process.stdout.readline()
            said.append(line)
            assert line, "".join(said)
            if line.startswith(first):
                break
        return process

    def run(self, *command: str, **variables: str) -> str:
        """Run `rlhf` there to its end, and return what it said."""
        process = self.start(*command, **variables)
        said, _ = process.communicate(timeout=900)
        assert process.returncode == 0, said
        return said

    def end(self) -> None:
        for process in reversed(self.started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=120)
            if process.poll() is None:
                process.kill()
                process.communicate()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """Two hosts that reach each other, and nothing else."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("network namespaces need root, iproute2 and util-linux")
    top = tmp_path_factory.mktemp("h")  # the path of a socket may have 107 bytes
    folders = [top / "a" / "project", top / "b" / "elsewhere"]
    for folder in folders:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    first, second = (
        Host(name, number, folders[number - 1], folders[2 - number].parent)
        for number, name in ((1, "alpha"), (2, "beta"))
    )
    for host in (first, second):
        subprocess.run(["ip", "netns", "del", host.namespace], check=False, capture_output=True)
        _ip("netns", "add", host.namespace)
    try:
        _ip("link", "add", "eth0", "netns", first.namespace, "type", "veth", "peer", "eth0", "netns", second.namespace)
        for host in (first, second):
            _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", host.namespace, "link", "set", device, "up")
        yield first, second
    finally:
        for host in (second, first):
            host.end()
        for host in (first, second):
            _ip("netns", "del", host.namespace)


def states(said: str) -> dict[str, str]:
    """How each stage went, by what `rlhf run --json` printed last."""
    report = json.loads(said.rstrip().rpartition("\n")[2])
    return {stage["name"]: stage["state"] for stage in report["stages"]}


def test_preparation_on_one_host_and_ppo_on_the_other(hosts: tuple[Host, Host]):
    first, second = hosts
    first.start("up", "--host", first.address, first="Ctrl-C")
    servers = {
        "PREFECT_API_URL": f"http://{first.address}:4200/api",
        "MLFLOW_TRACKING_URI": f"http://{first.address}:5000",
        "PREFECT_API_AUTH_STRING": f"rlhf:{PASSWORD}",
        "MLFLOW_TRACKING_USERNAME": "rlhf",
        "MLFLOW_TRACKING_PASSWORD": PASSWORD,
    }
    worker = second.start("worker", "--pool", "gpu", first="Ctrl-C", **servers)
    command = ("run", "configs/smoke.yaml", "--json", "--cluster.stage-pools.policy", "gpu")
    assert set(states(first.run(*command, **servers)).values()) == {"trained"}
    # What the second host made is on the first one's disk.
    assert list(second.folder.glob(".rlhf/stages/policy-*.lock"))
    assert not list(first.folder.glob(".rlhf/stages/policy-*.lock"))
    assert len(list(first.folder.glob("mlruns/artifacts/*/artifacts/output/summary.json"))) > 0
    assert not (second.folder / "mlruns" / "artifacts").exists()
    for host in hosts:
        assert set(states(host.run(*command, **servers)).values()) == {"cached"}
    worker.send_signal(signal.SIGTERM)
    said, _ = worker.communicate(timeout=120)
    assert worker.returncode == 143, said
    wait_for(lambda: not _works_on(second.namespace, "prefect"), 30)


def _works_on(namespace: str, program: str) -> bool:
    pids = subprocess.run(["ip", "netns", "pids", namespace], check=True, capture_output=True, text=True).stdout.split()
    return any(
        program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids if Path(f"/proc/{pid}").exists()
    )

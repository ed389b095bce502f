"""A Ray cluster on this machine: nodes in network namespaces of their own, where this user may make those."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from ports import free_port
from tiny_world import save_world

_ROOT = Path(__file__).resolve().parents[3]
_BRIDGE, _SPACES = "rlhf-hub", ("rlhf-a", "rlhf-b", "rlhf-c")
_NETWORK = "10.211.7"


def ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


@dataclass
class RayNodes:
    """Nodes that `ray start` has started."""

    folder: Path
    prefix: dict[str, list[str]]
    port: int
    nodes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    processes: dict[str, list[psutil.Process]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"{self.ip('rlhf-a')}:{self.port}"

    def ip(self, name: str) -> str:
        return f"{_NETWORK}.{_SPACES.index(name) + 1}" if self.prefix[name] else "127.0.0.1"

    @property
    def environment(self) -> dict[str, str]:
        root = {"RLHF_ROOT": str(self.folder / "project")}
        paths = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {**os.environ, **root, "PYTHONPATH": paths, "RAY_USAGE_STATS_ENABLED": "0"}

    def start(self, name: str, num_cpus: int) -> None:
        where = (
            ["--head", f"--port={self.port}", "--dashboard-port=0"] if not self.nodes else [f"--address={self.address}"]
        )
        command = [*self.prefix[name], sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *where]
        command += [f"--node-ip-address={self.ip(name)}", f"--num-cpus={num_cpus}", "--disable-usage-stats"]
        command += ["--object-store-memory=100000000"]
        log = (self.folder / f"{name}.log").open("wb")
        self.nodes[name] = subprocess.Popen(
            command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while b"Ray runtime started" not in (self.folder / f"{name}.log").read_bytes():
            assert self.nodes[name].poll() is None, (self.folder / f"{name}.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def of(self, name: str) -> list[psutil.Process]:
        """The processes of a node, its workers included."""
        node = psutil.Process(self.nodes[name].pid)
        return [node, *node.children(recursive=True)]

    def kill(self, name: str) -> None:
        for process in self.of(name):
            process.kill()
        self.nodes.pop(name).wait()

    def close(self) -> None:
        for name in reversed(list(self.nodes)):
            self.kill(name)


@pytest.fixture(scope="session")
def spaces() -> Iterator[None]:
    """Three hosts on one network, as far as sockets go."""
    try:
        ip("netns", "add", _BRIDGE)
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("this user may not make network namespaces")
    ip("-n", _BRIDGE, "link", "add", "br0", "type", "bridge")
    ip("-n", _BRIDGE, "link", "set", "br0", "up")
    for number, name in enumerate(_SPACES, 1):
        ip("netns", "add", name)
        ip("-n", _BRIDGE, "link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("-n", _BRIDGE, "link", "set", f"port{number}", "master", "br0", "up")
        ip("-n", name, "addr", "add", f"{_NETWORK}.{number}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield
    for name in (*_SPACES, _BRIDGE):
        ip("netns", "del", name)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    save_world(folder)
    return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    """A cluster of this machine alone."""
    pytest.importorskip("ray")
    nodes = RayNodes(tmp_path_factory.mktemp("r"), {"rlhf-a": []}, free_port())
    nodes.start("rlhf-a", 2)
    yield nodes
    nodes.close()


@pytest.fixture
def hosts(spaces: None, tmp_path: Path) -> Iterator[RayNodes]:
    """A cluster of three hosts with a process each, of which the third is to be started."""
    pytest.importorskip("ray")
    prefix = {name: ["ip", "netns", "exec", name] for name in _SPACES}
    nodes = RayNodes(tmp_path, prefix, free_port())
    yield nodes
    nodes.close()

"""Nodes of a Ray cluster on this machine, in network namespaces where each is a host of its own."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_ROOT = Path(__file__).resolve().parents[3]
SPACES = ("rlhf-a", "rlhf-b", "rlhf-c")
NETWORK = "10.211.7"


@dataclass
class RayNodes:
    """Nodes that `ray start` has started."""

    folder: Path
    prefix: dict[str, list[str]]
    port: int
    nodes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"{self.ip('rlhf-a')}:{self.port}"

    def ip(self, name: str) -> str:
        return f"{NETWORK}.{SPACES.index(name) + 1}" if self.prefix[name] else "127.0.0.1"

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
        command += ["--object-store-memory=100000000", f"--temp-dir={self.folder / name[-1]}"]
        with (self.folder / f"{name}.log").open("wb") as log:
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
        with suppress(psutil.NoSuchProcess):
            for process in self.of(name):
                process.kill()
        self.nodes.pop(name).wait()

    def close(self) -> None:
        for name in reversed(list(self.nodes)):
            self.kill(name)

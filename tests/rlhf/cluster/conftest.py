"""Ray clusters on this machine: of its own address, or of hosts in network namespaces."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ports import free_port
from ray_nodes import NETWORK, SPACES, RayNodes
from tiny_world import save_world

_BRIDGE = "rlhf-hub"


def ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


@pytest.fixture(scope="session")
def spaces() -> Iterator[None]:
    """Three hosts on one network, as far as sockets go."""
    try:
        ip("netns", "add", _BRIDGE)
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("this user may not make network namespaces")
    ip("-n", _BRIDGE, "link", "add", "br0", "type", "bridge")
    ip("-n", _BRIDGE, "link", "set", "br0", "up")
    for number, name in enumerate(SPACES, 1):
        ip("netns", "add", name)
        ip("-n", _BRIDGE, "link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("-n", _BRIDGE, "link", "set", f"port{number}", "master", "br0", "up")
        ip("-n", name, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield
    for name in (*SPACES, _BRIDGE):
        ip("netns", "del", name)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    save_world(folder)
    return folder


@pytest.fixture(scope="module")
def here() -> Iterator[RayNodes]:
    """A cluster of this machine alone."""
    with _cluster({"rlhf-a": []}) as nodes:
        nodes.start("rlhf-a", 2)
        yield nodes


@pytest.fixture
def hosts(spaces: None) -> Iterator[RayNodes]:
    """A cluster of hosts that are to be started."""
    with _cluster({name: ["ip", "netns", "exec", name] for name in SPACES}) as nodes:
        yield nodes


@contextmanager
def _cluster(prefix: dict[str, list[str]]) -> Iterator[RayNodes]:
    pytest.importorskip("ray")
    # The path of a socket may have 107 bytes, of which Ray's own part takes most.
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        # Ray's workers have the ports from 10,002 to 19,999.
        port = next(port for port in iter(free_port, 0) if port >= 20_000)
        nodes = RayNodes(Path(folder), prefix, port)
        try:
            yield nodes
        finally:
            nodes.close()

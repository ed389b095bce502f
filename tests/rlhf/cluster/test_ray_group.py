"""Groups on real Ray clusters: the bits of processes of one host, whatever is lost meanwhile."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from group_run import train
from interrupted import contents
from ray_nodes import RayNodes

from rlhf.cluster.group import check_group
from rlhf.config.cluster import ClusterConfig
from rlhf.config.model import ComputeConfig
from rlhf.errors import ConfigError, TrainingDivergedError
from rlhf.policy.distributed import ProcessesError

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]
LONGER: dict[str, Any] = {"num_updates": 12, "rollout_size": 64, "max_response_tokens": 24}
"""Long enough to kill something in the middle."""


def on_ray(nodes: RayNodes, **settings: Any) -> ClusterConfig:
    return ClusterConfig(backend="ray", address=nodes.address, **settings)


def expected(world: Path, folder: Path, settings: dict[str, Any]) -> tuple[Any, Any]:
    """Output and metrics of two processes of this host."""
    return train(world, folder, ClusterConfig(), settings), contents(folder / "output")


@pytest.fixture(scope="module")
def short(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return expected(world, tmp_path_factory.mktemp("short"), {})


@pytest.fixture(scope="module")
def longer(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return expected(world, tmp_path_factory.mktemp("longer"), LONGER)


def wait_for(condition: Callable[[], Any], seconds: float = 600) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def workers(nodes: RayNodes, name: str) -> list[psutil.Process]:
    """Those of a node that train."""
    return [one for one in nodes.of(name) if "RayTrainWorker" in " ".join(one.cmdline())]


def test_the_same_bits_as_by_processes_of_one_host(here, world, short, tmp_path):
    assert (train(world, tmp_path, on_ray(here)), contents(tmp_path / "output")) == short


def test_an_error_of_ours_is_raised_once(here, world, tmp_path):
    with pytest.raises(TrainingDivergedError) as raised:
        train(world, tmp_path, on_ray(here), {"learning_rate": 1e30, "learning_rate_schedule": "constant"})
    alone = tmp_path / "alone"
    with pytest.raises(TrainingDivergedError) as by_processes:
        train(world, alone, ClusterConfig(), {"learning_rate": 1e30, "learning_rate_schedule": "constant"})
    assert str(raised.value) == str(by_processes.value).replace(str(alone), str(tmp_path))
    assert raised.value.step == by_processes.value.step
    (note,) = raised.value.__notes__
    assert "of 2 (counted from 0), on the node" in note
    log = (tmp_path / "checkpoints" / "processes" / "group.log").read_text()
    assert log.count("Started training worker group") == 1
    assert "RETRY" not in log
    wait_for(lambda: not workers(here, "rlhf-a"), 60)


def run_apart(nodes: RayNodes, world: Path, folder: Path, cluster: ClusterConfig) -> "subprocess.Popen[bytes]":
    """A run in a process of its own on the first host."""
    program = [sys.executable, str(Path(__file__).with_name("group_run.py")), str(world), str(folder)]
    arguments = [cluster.model_dump_json(), json.dumps(LONGER)]
    paths = {"PYTHONPATH": f"{nodes.environment['PYTHONPATH']}:{Path(__file__).parents[1]}"}
    folder.mkdir()
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [*nodes.prefix["rlhf-a"], *program, *arguments], env=nodes.environment | paths, stdout=log, stderr=log
        )


def test_a_killed_process_is_made_up_for(here, world, longer, tmp_path):
    folder = tmp_path / "run"
    run = run_apart(here, world, folder, on_ray(here))
    wait_for(lambda: (folder / "checkpoints" / "update_000003").exists() or run.poll() is not None)
    assert run.poll() is None, (folder / "log").read_text()
    workers(here, "rlhf-a")[1].kill()
    assert run.wait(600) == 0, (folder / "log").read_text()
    log = (folder / "log").read_text()
    assert "of the group are gone; all begin again from the last checkpoint" in log
    assert "training goes on from update_0000" in log
    assert (json.loads((folder / "logged.json").read_text()), contents(folder / "output")) == longer


def test_no_more_losses_than_are_allowed(here, world, tmp_path):
    folder = tmp_path / "run"
    run = run_apart(here, world, folder, on_ray(here, max_node_failures=0))
    wait_for(lambda: (folder / "checkpoints" / "update_000002").exists() or run.poll() is not None)
    workers(here, "rlhf-a")[0].kill()
    assert run.wait(300) == 1
    last = (folder / "log").read_text().strip().splitlines()[-1]
    assert last.startswith("ProcessesError: the group of 2 processes is lost, after 0 losses that it went on from")


def test_a_lost_host_is_made_up_for(hosts, world, longer, tmp_path):
    """Three hosts of one process each: the first process's host dies, and the third one takes its place."""
    hosts.start("rlhf-a", 0)
    hosts.start("rlhf-b", 1)
    hosts.start("rlhf-c", 1)
    folder, store = tmp_path / "run", tmp_path / "store"
    cluster = on_ray(hosts, several_nodes=True, checkpoint_uri=store.as_uri())
    run = run_apart(hosts, world, folder, cluster)
    saved = lambda: list((hosts.folder / "project").rglob("nodes/*/checkpoints/update_000003"))  # noqa: E731
    wait_for(lambda: saved() or run.poll() is not None)
    assert run.poll() is None, (folder / "log").read_text()
    hosts.kill("rlhf-b")
    hosts.start("rlhf-b", 1)
    assert run.wait(900) == 0, (folder / "log").read_text()
    assert "all begin again from the last checkpoint" in (folder / "log").read_text()
    assert (json.loads((folder / "logged.json").read_text()), contents(folder / "output")) == longer
    kept = list((hosts.folder / "project").rglob("nodes/*/checkpoints"))
    assert len(kept) <= 1, "only the node that died keeps what it had"


def test_a_loopback_joins_no_hosts(hosts, world, tmp_path):
    for name in ("rlhf-a", "rlhf-b"):
        hosts.start(name, 1)
    uri = (tmp_path / "store").as_uri()
    cluster = on_ray(hosts, several_nodes=True, checkpoint_uri=uri, network_interface="lo")
    run = run_apart(hosts, world, tmp_path / "run", cluster)
    assert run.wait(120) == 1
    last = (tmp_path / "run" / "log").read_text().strip().splitlines()[-1]
    assert "does not reach the node" in last
    assert "set cluster.network_interface" in last


@pytest.mark.parametrize(
    ("settings", "num_processes", "message"),
    [
        ({}, 3, r"num_processes is 3, each with 1 CPU, but .* has room for 2 on the node of this host"),
        ({"network_interface": "eth9"}, 2, r"network_interface is eth9, which the node .* does not have; it has .*lo"),
    ],
)
def test_what_cannot_work_is_refused_within_a_minute(here, settings, num_processes, message):
    start = time.monotonic()
    with pytest.raises(ConfigError, match=message):
        check_group(on_ray(here, **settings), ComputeConfig(num_threads=1, num_processes=num_processes))
    assert time.monotonic() - start < 60


def test_something_else_at_the_address():
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(ConfigError, match=r"no Ray head has answered within 20 s"):
            check_group(ClusterConfig(backend="ray", address=address), ComputeConfig(num_processes=2))
        assert time.monotonic() - start < 60


def test_a_group_without_room_does_not_wait_for_ever(here, world, tmp_path):
    """The cores are there, and another job holds them."""
    program = "import ray, time\n@ray.remote(num_cpus=2)\ndef hold():\n    time.sleep(600)\n"
    program += f"ray.init(address={here.address!r})\nray.get(hold.remote())"
    job = subprocess.Popen([sys.executable, "-c", program], env=here.environment)
    try:
        wait_for(lambda: any("ray::hold" in " ".join(one.cmdline()) for one in here.of("rlhf-a")), 120)
        with pytest.raises(ProcessesError, match=r"did not begin within 20 s .*`ray status` says"):
            train(world, tmp_path, on_ray(here, start_timeout=20))
    finally:
        job.kill()
        job.wait()

"""What a group needs of its host and of its nodes, as far as it shows without Ray."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
from tiny_world import SETUP

from rlhf.cluster.group import check_group
from rlhf.cluster.nodes import Probe, address_at, check_alike, check_reached, facts, interface_of, room
from rlhf.cluster.plan import Plan
from rlhf.config.cluster import ClusterConfig
from rlhf.config.model import ComputeConfig
from rlhf.config.rl import RLConfig
from rlhf.errors import ConfigError
from rlhf.rl.request import RLRequest

CLUSTER = ClusterConfig(backend="ray", address="127.0.0.1:1")


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_ray_is_not_installed():
    with pytest.raises(ConfigError, match=r"Ray is not installed on this host; install it with `pip install .*ray"):
        check_group(CLUSTER, ComputeConfig(num_processes=2))


@pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray")
def test_nothing_answers():
    with pytest.raises(ConfigError, match=r"address is 127.0.0.1:1, where nothing answers .*`ray start --head --port"):
        check_group(CLUSTER, ComputeConfig(num_processes=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"machine": ("riscv", (), ())}, r"the node 192.0.2.2 has machine riscv, .* nodes of one kind"),
        ({"python": "3.9.1"}, r"has Python 3.9.1, and the host of the stage 3"),
    ],
)
def test_another_kind_of_machine(changes: dict[str, object], message: str):
    host = facts("192.0.2.1")
    check_alike(replace(host, address="192.0.2.2"), host)
    with pytest.raises(ConfigError, match=message):
        check_alike(replace(host, address="192.0.2.2", **changes), host)


def test_another_version_of_the_project():
    host = facts("192.0.2.1")
    other = host.code.model_copy(update={"sources": "0" * 64})
    with pytest.raises(ConfigError, match=r"not the code of the node 192.0.2.2: sources .* and 000000000000 there"):
        check_alike(replace(host, address="192.0.2.2", code=other), host)


def test_the_interface_of_an_address():
    loopback = interface_of("127.0.0.1", None)
    assert address_at(loopback, "this") == "127.0.0.1"
    with pytest.raises(
        ConfigError, match=r"no interface of the node 198.51.100.7 has its Ray address; set cluster.net"
    ):
        interface_of("198.51.100.7", None)
    with pytest.raises(ConfigError, match=r"eth99, which the node 127.0.0.1 does not have; it has .*" + loopback):
        interface_of("127.0.0.1", "eth99")


def test_who_is_reached():
    probe, other = Probe("192.0.2.1", "lo"), Probe("192.0.2.2", "lo")
    listening = {"192.0.2.1": probe.listen(), "192.0.2.2": other.listen()}
    assert probe.unreached(listening) is None
    listening["192.0.2.2"] = listening["192.0.2.1"]
    assert probe.unreached(listening) == "192.0.2.2", "the loopback leads to the node itself"
    with pytest.raises(ConfigError, match=r"192.0.2.1 does not reach the node 192.0.2.2 at 127.0.0.1, .*network_inter"):
        check_reached({"192.0.2.1": "192.0.2.2", "192.0.2.2": None}, listening)


def test_room():
    nodes = [{"CPU": 5.0, "memory": 1e9}, {"CPU": 1.0}, {"GPU": 2.0, "CPU": 16.0}, {}]
    compute = {"cpu": ComputeConfig(num_threads=2, num_processes=2), "cuda": ComputeConfig(device="cuda")}
    needed = {name: Plan(cluster=CLUSTER, compute=choice).needed for name, choice in compute.items()}
    assert room(nodes, needed["cpu"]) == [2, 0, 8, 0]
    assert room(nodes, needed["cuda"]) == [0, 0, 2, 0]


def test_the_folders_that_a_group_reads(tmp_path):
    (tmp_path / "model").mkdir()
    rewards = [{"kind": "trained"}, {"kind": "model", "name": "other", "path": str(tmp_path / "model")}]
    folders = {name: tmp_path / name for name in ("data", "start", "reward_models", "output", "report", "checkpoints")}
    request = RLRequest(method="ppo", rl=RLConfig(rewards=rewards), setup=SETUP, **folders)
    plan = Plan(cluster=CLUSTER, compute=SETUP.compute, request=request)
    assert plan == Plan.model_validate_json(plan.model_dump_json())
    named = {name: folders[name] for name in ("data", "start", "reward_models")}
    assert plan.folders == named | {"reward_1": tmp_path / "model"}

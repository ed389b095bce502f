"""Where stages run: refused where it cannot be, and no part of what a stage makes."""

import pytest

from rlhf.config.loading import load_config
from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import ConfigError
from rlhf.provenance.fingerprint import stage_fingerprint


def sent(**pools: str) -> PipelineConfig:
    return PipelineConfig.model_validate({"cluster": {"stage_pools": pools}})


def test_pools_by_flag():
    config = load_config(None, {"cluster.stage_pools.policy": "gpu"})
    assert config.cluster.stage_pools.chosen == {"policy": "gpu"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("polici", "gpu", "nearest known one is --cluster.stage-pools.policy"),
        ("data", "gpu", "--cluster.stage-pools.data is not a setting"),
        ("policy", "The GPU", "expected text that matches"),
    ],
)
def test_what_is_refused(name: str, value: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(None, {f"cluster.stage_pools.{name}": value})


def test_feedback_stays_here():
    with pytest.raises(ValueError, match=r"cluster.stage_pools sends policy to other hosts, but .* section feedback"):
        PipelineConfig.model_validate({"cluster": {"stage_pools": {"policy": "gpu"}}, "feedback": {"simulated": {}}})


RAY = {"cluster.backend": "ray", "cluster.address": "192.0.2.1:6379", "compute.num_processes": 2}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("address", "192.0.2.1:6379"),
        ("several_nodes", True),
        ("network_interface", "eth0"),
        ("max_node_failures", 1),
        ("start_timeout", 60),
    ],
)
def test_what_only_a_ray_cluster_needs_is_refused_without_it(name: str, value: object):
    ignored = rf"cluster.{name} is set but cluster.backend is local, so it would be ignored; set backend to ray"
    with pytest.raises(ConfigError, match=ignored):
        load_config(None, {f"cluster.{name}": value})
    uri = {"cluster.checkpoint_uri": "s3://bucket/runs"}
    assert getattr(load_config(None, RAY | uri | {f"cluster.{name}": value}).cluster, name) == value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cluster.address": None}, r"cluster.address names no head; give HOST:PORT of `ray start --head`"),
        ({"cluster.address": "ray://192.0.2.1:10001"}, r"cluster.address: got ray.*expected text that matches"),
        ({"cluster.several_nodes": True}, r"cluster.several_nodes is set but cluster.checkpoint_uri is not"),
        ({"compute.num_processes": 1}, r"backend is ray, but compute.num_processes is 1, so it would be ignored"),
        ({"method": "dpo"}, r"compute.num_processes is 2, but DPO trains in one process"),
    ],
)
def test_groups_that_cannot_be(changes: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(None, {name: value for name, value in (RAY | changes).items() if value is not None})


def test_no_fingerprint_has_it():
    local, in_pool, on_ray = sent(), sent(policy="gpu"), load_config(None, RAY)
    local, in_pool = (config.model_copy(update={"compute": on_ray.compute}) for config in (local, in_pool))
    prints = {
        stage_fingerprint("model_card", "1", {"config": config}, "rlhf.model_card.card")
        for config in (local, in_pool, on_ray)
    }
    assert len(prints) == 1

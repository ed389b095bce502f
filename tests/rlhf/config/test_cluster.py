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


def test_no_fingerprint_has_it():
    here, there = (
        stage_fingerprint("model_card", "1", {"config": c}, "rlhf.model_card.card")
        for c in (sent(), sent(policy="gpu"))
    )
    assert here == there

"""Pools that a recipe names, and that no host has joined."""

import logging

import pytest
from prefect.client.orchestration import get_client

from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import ConfigError
from tasks.pools import STAGE_FLOW, check_pools, deployment_of


def to(pool: str) -> PipelineConfig:
    return PipelineConfig.model_validate({"cluster": {"stage_pools": {"policy": pool}}})


def test_a_server_of_its_own_has_no_pools(prefect_server: str):
    check_pools(PipelineConfig())
    with pytest.raises(
        ConfigError, match=r"cluster.stage_pools.policy is gpu, but this run has a Prefect server of its"
    ):
        check_pools(to("gpu"))


def test_pools_are_known_by_their_deployments(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    with pytest.raises(ConfigError, match=r"is gpu, a pool that no host has joined.*`rlhf worker --pool gpu` joins it"):
        check_pools(to("gpu"))
    with get_client(sync_client=True) as client:
        from prefect.client.schemas.actions import WorkPoolCreate

        client.create_work_pool(WorkPoolCreate(name="gpu-hosts", type="process"))
        flow = client.create_flow_from_name(STAGE_FLOW)
        client.create_deployment(flow, name=deployment_of("gpu-hosts"), work_pool_name="gpu-hosts")
    with pytest.raises(ConfigError, match="nearest known one is gpu-hosts"):
        check_pools(to("gpu"))
    with caplog.at_level(logging.WARNING, "rlhf"):
        check_pools(to("gpu-hosts"))
    assert "no host of the pool gpu-hosts is there now" in caplog.text

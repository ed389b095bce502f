"""Stages of a run that other hosts compute: each is a flow run of its own, in the work pool that the recipe names."""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun, State, WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import ConfigError, RLHFError, nearest
from rlhf.provenance.record import BaseRecord
from rlhf.provenance.same_code import this_code
from tasks.core_slots import retry_while_away

logger = logging.getLogger("rlhf.pools")
STAGE_FLOW = "stage"
"""Name of the flow by which a pool's host runs one stage."""
_PREFIX = "on-"
_POLL_SECONDS = 3.0


class PoolError(RLHFError):
    """A stage that another host was to compute, and has not."""


def deployment_of(pool: str) -> str:
    """The name of the deployment that runs a stage in a pool."""
    return f"{_PREFIX}{pool}"


def check_pools(config: PipelineConfig) -> None:
    """Refuse pools that no host has joined, before anything is computed.

    Raises:
        ConfigError: names the nearest pool, or says how a host joins.
    """
    pools = config.cluster.stage_pools.chosen
    if not pools:
        return
    stage, pool = next(iter(pools.items()))
    if "PREFECT_API_URL" not in os.environ:
        raise ConfigError(
            f"cluster.stage_pools.{stage} is {pool}, but this run has a Prefect server of its own, which no other host "
            "reaches; start `rlhf up`, and `rlhf worker --pool " + pool + "` on the other host"
        )
    with get_client(sync_client=True) as client:
        known = _pools(client)
        for stage, pool in pools.items():
            if pool not in known:
                near = f"; the nearest known one is {nearest(pool, known)}" if known else ", and neither has another"
                raise ConfigError(
                    f"cluster.stage_pools.{stage} is {pool}, a pool that no host has joined{near}; `rlhf worker --pool "
                    f"{pool}` joins it"
                )
        for pool in dict.fromkeys(pools.values()):
            workers = client.read_workers_for_work_pool(pool)
            if not any(worker.status == WorkerStatus.ONLINE for worker in workers):
                logger.warning("no host of the pool %s is there now; its stages wait for `rlhf worker`", pool)


def run_in_pool(
    pool: str, stage: str, config: PipelineConfig, runs: Mapping[str, str], bases: Mapping[str, BaseRecord]
) -> UUID:
    """Have a host of a pool run a stage, and wait for the end. Without the run here the stage ends as well.

    Args:
        pool: its name.
        stage: its name.
        config: the recipe.
        runs: the MLflow runs of the stages that it reads from, by the names of the stage flow's parameters.
        bases: models from outside, as this host has them.

    Returns:
        The flow run of the stage.

    Raises:
        PoolError: the stage did not succeed; says what its own run said.
    """
    parameters = {
        "stage": stage,
        "config": config.model_dump(mode="json"),
        "runs": dict(runs),
        "code": this_code().model_dump(mode="json"),
        "bases": {setting: base.model_dump(mode="json") for setting, base in bases.items()},
    }
    run = run_deployment(f"{STAGE_FLOW}/{deployment_of(pool)}", parameters=parameters, timeout=0)
    assert isinstance(run, FlowRun), "a flow calls it without await"
    logger.info("%s goes to the pool %s, as flow run %s", stage, pool, run.id)
    with _ended_with_this_run(run.id):
        state = _wait(run.id)
    if not state.is_completed():
        raise PoolError(f"{stage} in the pool {pool} has ended as {state.name}: {state.message or 'without a word'}")
    return UUID(str(run.id))


def _pools(client: SyncPrefectClient) -> list[str]:
    """The pools that a host has ever joined."""
    of_flow = FlowFilter(name=FlowFilterName(any_=[STAGE_FLOW]))
    names = [deployment.name for deployment in client.read_deployments(flow_filter=of_flow)]
    return [name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX)]


def _wait(flow_run_id: UUID) -> State:
    with get_client(sync_client=True) as client:
        while True:
            state = retry_while_away(lambda: client.read_flow_run(flow_run_id)).state
            if state is not None and state.is_final():
                return state
            time.sleep(_POLL_SECONDS)


@contextmanager
def _ended_with_this_run(flow_run_id: UUID) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(httpx.HTTPError, ObjectNotFound), get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run_id, Cancelling(message="The run that waits for this stage was ended."))
        raise

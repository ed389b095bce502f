"""The start of the services on one host says nothing of runs whose processes are on another."""

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.states import Running

from flows.servers.automations import SILENCE
from flows.servers.flow_runs import mark_ownerless
from rlhf.files.locks import locked
from rlhf.paths import local_folder, run_environment
from rlhf.tracking.runs import close_run, open_pipeline

pytestmark = pytest.mark.usefixtures("project_root", "prefect_server")


@flow(name="of-some-host")
def some_flow() -> None:
    """A flow."""


def running(client: SyncPrefectClient) -> FlowRun:
    """A run that somebody has started in a terminal."""
    return client.create_flow_run(some_flow, state=Running())


def in_pool(client: SyncPrefectClient, pool: str) -> FlowRun:
    """A run that the worker of a host has started."""
    client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    deployment = client.create_deployment(client.create_flow(some_flow), name=f"on-{pool}", work_pool_name=pool)
    run = client.create_flow_run_from_deployment(deployment)
    client.set_flow_run_state(run.id, Running(), force=True)
    return run


def test_runs_of_other_hosts_are_left_to_their_heartbeat():
    with get_client(sync_client=True) as client:
        elsewhere, there, killed, closed, never_begun = in_pool(client, "far"), *(running(client) for _ in range(4))
    open_pipeline("demo", str(there.id), {}, {})
    open_pipeline("demo", str(killed.id), {}, {})
    with locked(local_folder("pipelines") / f"{killed.id}.lock"):  # what a kill leaves
        pass
    close_run(open_pipeline("demo", str(closed.id), {}, {}), "KILLED")
    marked = set(mark_ownerless())
    assert {killed.id, closed.id, never_begun.id} <= marked
    assert not {elsewhere.id, there.id} & marked
    with get_client(sync_client=True) as client:
        for run in (elsewhere, there):  # which other tests would wait for
            client.delete_flow_run(run.id)


def test_a_run_in_a_terminal_is_heard_in_time():
    assert SILENCE.total_seconds() >= 3 * int(run_environment()["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])

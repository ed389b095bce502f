"""Flow runs without a living process, and flow runs that are to be stopped."""

import logging
from collections.abc import Callable, Sequence
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events import emit_event
from prefect.states import Cancelled, Cancelling, Crashed

from flows.servers.waiting import wait_until
from rlhf.tracking.run_locks import is_alive, was_here
from rlhf.tracking.runs import is_running

logger = logging.getLogger("rlhf.servers")
POOL = "rlhf"
CANCEL_SECONDS = 60.0
_IN_FLIGHT = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
_PAGE = 200


def mark_ownerless() -> list[UUID]:
    """Mark flow runs without a living process, and their task runs, as Crashed. Call it while no worker is up.

    Prefect believes a run to be Running until it is told otherwise, and lets nobody retry it before. A run of another
    host is left alone: whether its process lives is not seen here, and its heartbeat tells.

    Returns:
        The flow runs that were marked.
    """
    with get_client(sync_client=True) as client:
        of_this_host = {run.id for run in _in_flight(client, POOL)}
        ownerless = [
            run
            for run in _in_flight(client)
            if not is_alive(str(run.id)) and (run.id in of_this_host or not _is_elsewhere(run))
        ]
        for run in ownerless:
            _crash(client, run, "The process that worked on this run is gone; Retry goes on from the last checkpoint.")
    return [run.id for run in ownerless]


def _is_elsewhere(run: FlowRun) -> bool:
    """Whether a run of no work pool of this host may have its process on another host."""
    return not was_here(str(run.id)) and (bool(run.work_pool_name) or is_running(str(run.id)))


def cancel_in_flight(pool: str = POOL, is_meant: Callable[[FlowRun], bool] = lambda _: True) -> None:
    """Cancel a work pool's runs that are under way, and wait for their end. What does not end is left Cancelling.

    Args:
        pool: its name.
        is_meant: which of them.
    """
    with get_client(sync_client=True) as client:
        meant = [run for run in _in_flight(client, pool) if is_meant(run)]
        for run in meant:
            pending = run.state_type == StateType.PENDING
            message = "The services were told to stop; Retry goes on from the last checkpoint."
            client.set_flow_run_state(run.id, (Cancelled if pending else Cancelling)(message=message))
        ids = {run.id for run in meant}
        wait_until(lambda: ids.isdisjoint(run.id for run in _in_flight(client, pool)), CANCEL_SECONDS, every=0.5)


def crash_in_flight(pool: str = POOL, is_meant: Callable[[FlowRun], bool] = lambda _: True) -> None:
    """Mark a work pool's runs as Crashed that were killed with the worker."""
    with get_client(sync_client=True) as client:
        for run in _in_flight(client, pool):
            if is_meant(run) and not is_alive(str(run.id)):
                _crash(client, run, "The run did not end in time, and was killed; Retry goes on.")


def _in_flight(client: SyncPrefectClient, of_pool: str | None = None) -> Sequence[FlowRun]:
    states = FlowRunFilterState(type=FlowRunFilterStateType(any_=_IN_FLIGHT))
    pool = None if of_pool is None else WorkPoolFilter(name=WorkPoolFilterName(any_=[of_pool]))
    runs: list[FlowRun] = []
    while True:
        page = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=states), work_pool_filter=pool, limit=_PAGE, offset=len(runs)
        )
        runs += page
        if len(page) < _PAGE:
            return runs


def _crash(client: SyncPrefectClient, run: FlowRun, message: str) -> None:
    logger.warning("%s was %s, and nobody works on it: marked as Crashed", run.name, run.state_name)
    running = TaskRunFilterState(type=TaskRunFilterStateType(any_=_IN_FLIGHT))
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    for task_run in client.read_task_runs(flow_run_filter=of_run, task_run_filter=TaskRunFilter(state=running)):
        client.set_task_run_state(task_run.id, Crashed(message=message), force=True)
    _emit_again(run)
    client.set_flow_run_state(run.id, Crashed(message=message), force=True)


def _emit_again(run: FlowRun) -> None:
    """Emit the event of a run's last state once more, under its own id.

    A server that was killed has forgotten which events it has seen, and would hold the next one back for a quarter of
    an hour, waiting for this one.
    """
    assert run.state is not None, "a run in flight has a state"
    emit_event(
        event=f"prefect.flow-run.{run.state.name}",
        resource={"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name},
        occurred=run.state.timestamp,
        id=run.state.id,
    )

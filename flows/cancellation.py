"""What Prefect calls a crash although somebody wanted it."""

from prefect import Flow, State, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled


def mark_cancelled(flow: "Flow[..., object]", flow_run: FlowRun, state: State) -> None:
    """Turn a crash by Ctrl-C or SIGTERM into what it is: a cancellation."""
    message = state.message or ""
    if "KeyboardInterrupt" not in message and "SystemExit" not in message and "TerminationSignal" not in message:
        return
    cancelled = Cancelled(message="Interrupted; the same run goes on from its last checkpoints.")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run.id, cancelled, force=True)

"""Automations of the Prefect server: it marks runs whose process is gone, and calls a person's webhook."""

from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from tasks.prefect_artifacts import PROMOTED_EVENT

WEBHOOK = "rlhf"
"""Name of the Webhook block that notifications go to, where there is one."""
SILENCE = timedelta(seconds=120)
"""Four heartbeats."""
ZOMBIES = "Mark runs whose process is gone as Crashed"
_HEARTBEAT = "prefect.flow-run.heartbeat"
_QUIET_STATES = (
    *("Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "TimedOut"),
    *("Suspended", "Paused", "Scheduled", "AwaitingRetry", "Late", "Resuming", "Pending"),
)
_FAILED = (
    '{"event": {{ flow_run.state.name | tojson }}, "run": {{ flow_run.name | tojson }}, '
    '"message": {{ flow_run.state.message | tojson }}, "url": {{ flow_run | ui_url | tojson }}}'
)
_PROMOTED = (
    '{"event": "Promoted", "run": {{ event.resource.name | tojson }}, '
    '"message": {{ event.payload.message | tojson }}, "url": {{ event.payload.url | tojson }}}'
)


async def set_up_automations(client: PrefectClient) -> None:
    """Make the automations, or bring them up to date. Those that notify need the Webhook block, and go with it."""
    await _set(client, _zombies())
    webhook = await _webhook(client)
    if webhook is None:
        for name in ("Tell of a run that failed", "Tell of a promotion"):
            await _remove(client, name)
        return
    failed = EventTrigger(
        expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
        match={"prefect.resource.id": ["prefect.flow-run.*"]},
        posture=Posture.Reactive,
    )
    promoted = EventTrigger(expect={PROMOTED_EVENT}, posture=Posture.Reactive)
    for name, trigger, payload in (
        ("Tell of a run that failed", failed, _FAILED),
        ("Tell of a promotion", promoted, _PROMOTED),
    ):
        action = CallWebhook(block_document_id=webhook, payload=payload)
        await _set(client, AutomationCore(name=name, trigger=trigger, actions=[action]))


def _zombies() -> AutomationCore:
    """A run that had a heartbeat and has none any more has lost its process, or its whole machine."""
    return AutomationCore(
        name=ZOMBIES,
        description="A run that had a heartbeat, and then none for two minutes, can be retried afterwards.",
        trigger=EventTrigger(
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *(f"prefect.flow-run.{name}" for name in _QUIET_STATES)},
            for_each={"prefect.resource.id"},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="No heartbeat for two minutes: the process is gone. Retry goes on from the last checkpoint.",
            )
        ],
    )


async def _set(client: PrefectClient, automation: AutomationCore) -> None:
    known = await client.read_automations_by_name(automation.name)
    for old in known:
        # Switched off it stays, for that was a person's wish.
        await client.update_automation(old.id, automation.model_copy(update={"enabled": old.enabled}))
    if not known:
        await client.create_automation(automation)


async def _remove(client: PrefectClient, name: str) -> None:
    for old in await client.read_automations_by_name(name):
        await client.delete_automation(old.id)


async def _webhook(client: PrefectClient) -> UUID | None:
    try:
        return (await client.read_block_document_by_name(WEBHOOK, "webhook")).id
    except ObjectNotFound:
        return None

"""What a person sees of a run in Prefect's UI beside its states: the card, the numbers, links, and progress."""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from rlhf import tracking
from rlhf.lines import lines_of
from rlhf.markdown import escape
from rlhf.metrics import describe
from rlhf.references import GateVerdict, StageReport
from rlhf.tracking import REGISTERED_MODEL

logger = logging.getLogger("rlhf.display")
PROMOTED_EVENT = "rlhf.policy.promoted"
_PROGRESS_EVERY_SECONDS = 5.0
_BLOCK = re.compile(r"\s*([-*+>|#]|\d+\.|```)")
"""Begins something of its own: an item, a quotation, a row, a heading, code."""
_ENDED = re.compile(r"\s*([|#]|```)")
"""Is over with its line."""


@contextmanager
def _at_leisure() -> Iterator[None]:
    """What is only shown must not fail the run when Prefect's server is being restarted."""
    try:
        yield
    except (httpx.HTTPError, PrefectHTTPStatusError, ObjectNotFound) as error:
        logger.warning("Prefect did not take something that it should show: %r", error)


@_at_leisure()
def show_link(key: str, url: str, description: str) -> None:
    """Link to something outside Prefect."""
    create_link_artifact(link=url, link_text=url, key=key, description=description)


@_at_leisure()
def show_card(readme: Path) -> None:
    """Show the model card, without the metadata block that only the hub reads, and without figures beside the file."""
    text = re.sub(r"\A---\n.*?\n---\n", "", readme.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = unwrapped(re.sub(r"^!\[[^]]*\]\((?!https?:)[^)]*\)\n", "", text, flags=re.MULTILINE))
    create_markdown_artifact(markdown=text, key="model-card", description="The model card")


def unwrapped(text: str) -> str:
    """Markdown with a paragraph a line: Prefect's pages break lines wherever the text does."""
    lines: list[str] = []
    in_code = False
    for line in lines_of(text):
        goes_on = bool(lines and lines[-1] and line) and not (_BLOCK.match(line) or _ENDED.match(lines[-1]))
        if goes_on and not in_code:
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
        in_code ^= line.startswith("```")
    return "\n".join(lines) + "\n"


@_at_leisure()
def show_metrics(metrics: Mapping[str, float]) -> None:
    """Show what the evaluation measured, with units."""
    rows = [
        {"metric": name, "value": f"{value:.4g}", "unit": describe(name).unit, "better": describe(name).better}
        for name, value in sorted(metrics.items())
        if name.startswith(("evaluation/", "reward_audit/"))
    ]
    create_table_artifact(table=rows, key="evaluation", description="Results on held-out data")


@_at_leisure()
def show_stages(stages: Sequence[StageReport]) -> None:
    """Show how each stage went, with a link to the MLflow run that trained it."""
    rows = [
        f"| {stage.name} | {stage.state} | {stage.seconds:.1f} | {stage.trained_seconds:.1f} "
        f"| [{stage.run_id[:8]}]({tracking.run_url(stage.run_id)}) |"
        for stage in stages
    ]
    head = ["| stage | state | seconds | seconds when trained | MLflow run |", "|---|---|---:|---:|---|"]
    create_markdown_artifact(markdown="\n".join(head + rows), key="stages", description="Stages of this run")


@_at_leisure()
def show_verdict(verdict: str, reason: str) -> None:
    """Show how retraining ended, and why."""
    text = f"**{verdict}**\n\n{escape(reason)}"
    create_markdown_artifact(markdown=text, key="retrain-verdict", description="What retraining came to")


@_at_leisure()
def show_reproduction(text: str) -> None:
    """Show the verdict on a run that was made again, stage by stage."""
    create_markdown_artifact(markdown=text, key="reproduction", description="Then and now")


@_at_leisure()
def show_gates(gates: Sequence[GateVerdict]) -> None:
    """Show what each gate asked for and found."""
    create_table_artifact(table=[gate_row(gate) for gate in gates], key="gates", description="Candidate and gates")


def gate_row(gate: GateVerdict) -> dict[str, str]:
    """A gate's verdict in words and rounded numbers."""
    return {
        "gate": gate.gate,
        "limit": f"at {'least' if gate.at_least else 'most'} {gate.limit:.4g}",
        "found": f"{gate.found:.4g}",
        "held": "yes" if gate.held else "no",
        "by": f"{gate.margin:+.4g}",
    }


@_at_leisure()
def name_outcome(flow_run_id: str, outcome: str) -> None:
    """Put how it stands after a flow run's name: `demo, seed 0, 1a2b3c4d5: promoted`."""
    with get_client(sync_client=True) as client:
        name = client.read_flow_run(UUID(flow_run_id)).name
        client.update_flow_run(UUID(flow_run_id), name=f"{name.partition(': ')[0]}: {outcome}")


@_at_leisure()
def announce_promotion(run: str, message: str, url: str) -> None:
    """Tell Prefect's automations, one of which calls a person's webhook."""
    resource = {"prefect.resource.id": REGISTERED_MODEL, "prefect.resource.name": run}
    emit_event(PROMOTED_EVENT, resource, payload={"message": message, "url": url})


def progress_artifact(stage: str) -> Callable[[str, int, int], None]:
    """A watcher for `rlhf.progress` that keeps a progress artifact of a stage, and never stops the stage."""
    artifact: UUID | None = None
    due = 0.0

    def show(reporting: str, done: int, total: int) -> None:
        nonlocal artifact, due
        if reporting != stage or time.monotonic() < due:
            return
        due = time.monotonic() + _PROGRESS_EVERY_SECONDS
        percent = 100.0 * done / max(total, 1)
        with _at_leisure():
            if artifact is None:
                created = create_progress_artifact(progress=percent, key=stage.replace("_", "-"), description=stage)
                artifact = created if isinstance(created, UUID) else None
            else:
                update_progress_artifact(artifact, progress=percent)

    return show

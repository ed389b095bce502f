"""What a person sees of a run in Prefect's UI beside its states: the card, the numbers, links, and progress."""

import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
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

from rlhf.addresses import with_public_addresses
from rlhf.errors import RLHFError, one_line
from rlhf.failures import explain
from rlhf.headline import FITNESS
from rlhf.references import GateVerdict, Spending, StageReport
from rlhf.text.markdown import escape, without_metadata
from rlhf.text.safe_markdown import safe_markdown
from rlhf.tracking.client import run_url

logger = logging.getLogger("rlhf.display")
PROMOTED_EVENT = "rlhf.policy.promoted"
_PROGRESS_EVERY_SECONDS = 5.0
_RETRY = "Once that is done, *Retry* goes on with the stage that failed, and from its last checkpoint."


@contextmanager
def _best_effort() -> Iterator[None]:
    """What is only shown must not fail the run when Prefect's server is being restarted."""
    try:
        yield
    except (httpx.HTTPError, PrefectHTTPStatusError, ObjectNotFound) as error:
        logger.warning("Prefect did not take something that it should show: %s", with_public_addresses(repr(error)))


@_best_effort()
def show_link(key: str, url: str, description: str) -> None:
    """Link to something outside Prefect."""
    create_link_artifact(link=url, link_text=url, key=key, description=description)


@_best_effort()
def show_card(readme: Path) -> None:
    """Show the model card, without the metadata block that only the hub reads, and without figures beside the file."""
    text = without_metadata(readme.read_text(encoding="utf-8"))
    text = re.sub(r"^!\[[^]]*\]\((?!https?:)[^)]*\)\n", "", text, flags=re.MULTILINE)
    _show_markdown(text, "model-card", "The model card")


def _show_markdown(text: str, key: str, description: str) -> None:
    """Prefect's pages load the images and obey the HTML of what they show."""
    create_markdown_artifact(markdown=safe_markdown(text), key=key, description=description)


@_best_effort()
def show_report(text: str) -> None:
    """Show what the run came to."""
    _show_markdown(text, "report", "What the run came to")


@_best_effort()
def show_stages(stages: Sequence[StageReport]) -> None:
    """Show how each stage went, with a link to the MLflow run that trained it."""
    rows = [
        f"| {stage.name} | {stage.state} | {stage.seconds:.1f} | {stage.trained_seconds:.1f} "
        f"| [{stage.run_id[:8]}]({run_url(stage.run_id)}) |"
        for stage in stages
    ]
    head = ["| stage | state | seconds | seconds when trained | MLflow run |", "|---|---|---:|---:|---|"]
    _show_markdown("\n".join(head + rows), "stages", "Stages of this run")


@_best_effort()
def show_group(summary: str) -> None:
    """Show what a recipe comes to over several seeds."""
    _show_markdown(summary, "seeds", "Results over several seeds")


@_best_effort()
def show_methods(summary: str) -> None:
    """Show a comparison of methods."""
    _show_markdown(summary, "methods", "Methods on the same data, SFT policies and reward models")


@_best_effort()
def show_round(text: str) -> None:
    """Show how a round of feedback stands."""
    _show_markdown(text, "feedback", "The round of feedback")


@_best_effort()
def show_failure(error: Exception, advice: str = _RETRY) -> None:
    """Show why a run failed, in the words that the command line has for it: what, where, and what to do."""
    known = str(error) if isinstance(error, RLHFError) else explain(error)
    what = known or f"this is a defect of rlhf, and not of what you gave: {type(error).__name__}: {one_line(error)}"
    _show_markdown(f"**{escape(what)}**\n\n{advice}", "failure", "Why the run failed, and what to do")


@_best_effort()
def show_verdict(verdict: str, reason: str) -> None:
    """Show how retraining ended, and why."""
    text = f"**{verdict}**\n\n{escape(reason)}"
    _show_markdown(text, "retrain-verdict", "What retraining came to")


@_best_effort()
def show_reproduction(text: str) -> None:
    """Show the verdict on a run that was made again, stage by stage."""
    _show_markdown(text, "reproduction", "Then and now")


@_best_effort()
def show_figure_gates(gates: Sequence[GateVerdict]) -> None:
    """Show what the recipe's own gates asked for and found."""
    create_table_artifact(table=[gate_row(gate) for gate in gates], key="figure-gates", description="The run's figures")


@_best_effort()
def show_gates(gates: Sequence[GateVerdict], spending: Spending | None) -> None:
    """Show what each gate asked for and found, and what is known of false promotions."""
    description = "Candidate and gates" + (f". {spending.sentence}" if spending else "")
    create_table_artifact(table=[gate_row(gate) for gate in gates], key="gates", description=description)


def gate_row(gate: GateVerdict) -> dict[str, str]:
    """A gate's verdict in words and rounded numbers."""
    if gate.words is not None:
        least = next(word for word, value in FITNESS.items() if value == gate.limit)
        row = dict.fromkeys(("figure", "by", "prompts", "needed"), "")
        held = "yes" if gate.held else "no"
        return row | {"gate": gate.gate, "limit": f"at least {least}", "bound": gate.words, "held": held}
    return {
        "gate": gate.gate,
        "limit": f"at {'least' if gate.at_least else 'most'} {gate.limit:.4g}",
        "figure": "" if gate.value is None else f"{gate.value:.4g}",
        "bound": f"{gate.found:.4g}" + ("" if gate.confidence is None else f" ({_level(gate.confidence)})"),
        "held": "yes" if gate.held else "no",
        "by": f"{gate.margin:+.4g}",
        "prompts": "" if gate.prompts is None else f"{gate.prompts:,}",
        "needed": "" if gate.prompts_needed is None else f"{gate.prompts_needed:,}",
    }


def _level(confidence: float) -> str:
    """With two digits of what it lacks of 1: 95%, 98.3%, 99.99984%."""
    lacking = 1 - confidence
    if lacking < 1e-8:
        return f"1 - {lacking:.2g}"
    return f"{100 * confidence:.{max(0, 1 - math.floor(math.log10(100 * lacking)))}f}".removesuffix(".0") + "%"


@_best_effort()
def name_outcome(flow_run_id: str, outcome: str) -> None:
    """Put how it stands after a flow run's name: `demo, seed 0: promoted`."""
    with get_client(sync_client=True) as client:
        name = client.read_flow_run(UUID(flow_run_id)).name
        client.update_flow_run(UUID(flow_run_id), name=f"{name.partition(': ')[0]}: {outcome}")


@_best_effort()
def announce_promotion(recipe: str, run: str, message: str, url: str) -> None:
    """Tell Prefect's automations, one of which calls a person's webhook."""
    resource = {"prefect.resource.id": f"rlhf.policy.{recipe}", "prefect.resource.name": run}
    emit_event(PROMOTED_EVENT, resource, payload={"message": message, "url": url})


def progress_artifact(stage: str) -> Callable[[str, int, int], None]:
    """A watcher for `rlhf.progress` that keeps a progress artifact of a stage, and never stops the stage."""
    artifact: UUID | None = None
    due = 0.0

    def show(reporting: str, done: int, total: int) -> None:
        nonlocal artifact, due
        if reporting != stage or (time.monotonic() < due and done < total):
            return
        due = time.monotonic() + _PROGRESS_EVERY_SECONDS
        percent = 100.0 * done / max(total, 1)
        with _best_effort():
            if artifact is None:
                created = create_progress_artifact(progress=percent, key=stage.replace("_", "-"), description=stage)
                artifact = created if isinstance(created, UUID) else None
            else:
                update_progress_artifact(artifact, progress=percent)

    return show

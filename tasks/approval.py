"""A person is asked whether a candidate becomes the champion. No process waits for the answer."""

from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run as this_flow_run
from prefect.states import Completed
from pydantic import Field

from rlhf.errors import ArtifactMismatchError, InputError
from rlhf.references import ComparisonRef, Proposal, RetrainReport
from rlhf.retraining import state as retraining
from rlhf.retraining.state import ApprovalRequest
from rlhf.text.markdown import table
from rlhf.tracking import artifacts
from rlhf.tracking.client import run_url
from rlhf.tracking.runs import set_tags, wait_for_approval
from rlhf.tracking.tags import VERDICT_REASON_TAG, VERDICT_TAG
from tasks.prefect_artifacts import gate_row, name_outcome
from tasks.retrain_outcome import end

_KEY = "approval"
_NUM_SAMPLES = 3


class Approval(RunInput):
    """Shall the candidate become the champion?"""

    decision: Literal["approve", "reject"]
    reason: str = Field(min_length=1, max_length=1000, description="Kept in MLflow with the decision.")


def ask(proposal: Proposal, hours: float) -> RetrainReport | None:
    """Suspend the flow run until a person has answered. It then starts from its top, and comes here again.

    Args:
        proposal: the candidate.
        hours: that a person has.

    Returns:
        None where the candidate was approved; otherwise what the run ends with.
    """
    refusal = retraining.refusal_of(proposal.candidate)
    question = retraining.question_of(str(this_flow_run.id))
    if question is None and refusal is not None:
        return _decline(proposal, f"it was refused before: {refusal}")
    if question is None:
        question = retraining.open_question(proposal, str(this_flow_run.id), hours)
        wait_for_approval(proposal.run_id)
        name_outcome(str(this_flow_run.id), "waiting for approval")
    form = Approval.with_initial_data(description=_description(question))
    answer = suspend_flow_run(wait_for_input=form, key=_KEY)
    if _answered_at() > question.until:
        retraining.record_answer(question, "expired", "the answer came too late")
        return end("expired", _expired(question), proposal=proposal)
    retraining.record_answer(question, answer.decision, answer.reason)
    return None if answer.decision == "approve" else _decline(proposal, answer.reason)


def settle_questions() -> None:
    """Close what other flow runs have asked, where the time has passed or the flow run is no more."""
    for question in retraining.open_questions():
        if question.flow_run_id == str(this_flow_run.id):
            continue
        state = _state_of(question.flow_run_id)
        if state is None or state.is_final():
            what = "gone" if state is None else state.name
            retraining.record_answer(question, "withdrawn", f"its flow run is {what}")
        elif state.is_paused() and question.is_over:
            _expire(question)


def _expire(question: ApprovalRequest) -> None:
    """End a suspended flow run in the place of its process, which is no more."""
    reason = _expired(question)
    retraining.record_answer(question, "expired", reason)
    set_tags(question.proposal.run_id, {VERDICT_TAG: "expired", VERDICT_REASON_TAG: reason})
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(question.flow_run_id), Completed(message=reason), force=True)
    name_outcome(question.flow_run_id, "expired")


def _decline(proposal: Proposal, reason: str) -> RetrainReport:
    return end("declined", f"Version {proposal.candidate} does not become the champion: {reason}", proposal=proposal)


def _expired(question: ApprovalRequest) -> str:
    what = f"whether version {question.proposal.candidate} becomes the champion"
    return f"Nobody has said until {question.deadline} {what}."


def _description(question: ApprovalRequest) -> str:
    """The text above the form."""
    proposal = question.proposal
    rows = [gate_row(gate) for gate in proposal.gates]
    sentences = [proposal.spending.sentence] if proposal.spending else []
    against = f"version {proposal.champion}" if proposal.champion else "its own SFT policy (there is no champion)"
    what = (
        f"Version {proposal.candidate} passed all gates against {against}."
        if rows
        else f"No gate was on, so nothing was asked of version {proposal.candidate} against {against}."
    )
    return "\n\n".join(
        [
            f"{what} Shall it become the champion?",
            *([table(list(rows[0]), [list(row.values()) for row in rows])] if rows else []),
            *sentences,
            *_samples(proposal),
            f"[Its run in MLflow]({run_url(proposal.run_id)}). Without an answer until "
            f"{question.deadline} the champion stays.",
        ]
    )


def _samples(proposal: Proposal) -> list[str]:
    """The first answers of both, as the comparison has them; none where it is gone."""
    try:
        reference, _ = artifacts.output_of(proposal.run_id, "comparison", ComparisonRef)
        lines = (artifacts.local_path(reference) / "side_by_side.md").read_text(encoding="utf-8").split("\n")
    except (InputError, ArtifactMismatchError, OSError):
        return []
    rows = [line for line in lines if line.startswith("|")]
    return ["\n".join(rows[: 2 + _NUM_SAMPLES])] if len(rows) > 2 else []


def _state_of(flow_run_id: str) -> State | None:
    with get_client(sync_client=True) as client:
        try:
            return client.read_flow_run(UUID(flow_run_id)).state
        except ObjectNotFound:
            return None


def _answered_at() -> datetime:
    """When the flow run was resumed. A worker may have taken it up much later."""
    with get_client(sync_client=True) as client:
        states = client.read_flow_run_states(UUID(str(this_flow_run.id)))
    return max((state.timestamp for state in states if state.name == "Resuming"), default=datetime.now(UTC))

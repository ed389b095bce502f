"""The end of a retraining run: shown in Prefect, in the run's name too, and kept in MLflow."""

from prefect.runtime import flow_run as this_flow_run

from rlhf.figure_gates import explain_gate
from rlhf.references import Proposal, RetrainReport, Verdict
from rlhf.tracking import registry
from rlhf.tracking.client import run_url
from rlhf.tracking.runs import set_tags
from rlhf.tracking.tags import VERDICT_REASON_TAG, VERDICT_TAG
from tasks.form import this_config
from tasks.prefect_artifacts import announce_promotion, name_outcome, show_verdict


def end(
    verdict: Verdict, reason: str, *, proposal: Proposal | None = None, data_md5: str | None = None
) -> RetrainReport:
    """Say how it ended.

    Args:
        verdict: in a word.
        reason: in a sentence.
        proposal: the candidate, where there is one.
        data_md5: version of the data that was looked at, where there is no candidate.
    """
    if proposal is not None and proposal.spending is not None and verdict in ("promoted", "rejected"):
        reason = f"{reason} {proposal.spending.sentence}"
    if proposal is not None:
        set_tags(proposal.run_id, {VERDICT_TAG: verdict, VERDICT_REASON_TAG: reason})
    show_verdict(verdict, reason)
    rejected_by = f" by {', '.join(proposal.failed)}" if proposal and verdict == "rejected" else ""
    name_outcome(str(this_flow_run.id), verdict + rejected_by)
    recipe = this_config().name
    if verdict == "promoted":
        announce_promotion(recipe, this_flow_run.name or "", reason, run_url(proposal.run_id) if proposal else "")
    return RetrainReport(
        verdict=verdict,
        reason=reason,
        champion=registry.champion_version(recipe),
        data_md5=proposal.data_md5 if proposal else data_md5,
        proposal=proposal,
    )


def reject(proposal: Proposal) -> RetrainReport:
    """The champion stays, since a gate did not hold; say which, and by how much."""
    failed = "; ".join(explain_gate(gate) for gate in proposal.gates if not gate.held)
    return end("rejected", f"Version {proposal.candidate} does not become the champion: {failed}.", proposal=proposal)

"""What retraining decides and remembers: is there something new, and what was a person asked.

The memory is tags in MLflow, on the pipeline run that trained the candidate and on the candidate's version. A flow run
that was suspended finds its question there again, whatever data/ and the champion are by then.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from rlhf import reward_functions, tracking
from rlhf.config import DataConfig, PipelineConfig, RetrainConfig
from rlhf.errors import ConfigError
from rlhf.references import Proposal
from rlhf.registry import is_registered, tag_version, version_tags

Decision = Literal["approve", "reject", "expired", "withdrawn"]
_PROPOSAL = "rlhf.proposal"
_APPROVAL = "rlhf.approval"
_UNTIL = "rlhf.approval_until"
_REASON = "rlhf.approval_reason"
_AT = "rlhf.approval_at"


@dataclass(frozen=True)
class Question:
    """A person was asked whether a candidate shall become the champion.

    Attributes:
        flow_run_id: Prefect's id of the run that asked, and waits.
        proposal: the candidate.
        until: when the question expires.
    """

    flow_run_id: str
    proposal: Proposal
    until: datetime

    @property
    def deadline(self) -> str:
        """When it expires, for a person."""
        return self.until.strftime("%Y-%m-%d %H:%M UTC")

    @property
    def is_over(self) -> bool:
        """The time for an answer has passed."""
        return self.until <= datetime.now(UTC)


def check_settings(config: PipelineConfig, retrain: RetrainConfig) -> None:
    """Refuse settings that would be ignored, and judges that are not installed, before anything is trained.

    Raises:
        ConfigError: what the two sections say does not go together.
    """
    if retrain.source != "local" and config.data.path != DataConfig().path:
        raise ConfigError(
            f"retrain.source is {retrain.source}, which decides where the data is, so data.path ({config.data.path}) "
            f"would be ignored; drop data.path, or set retrain.source to local"
        )
    if retrain.source == "inbox" and config.data.embedded is not None:
        raise ConfigError(
            f"retrain.source is inbox, which adds to data/, and data.embedded ({config.data.embedded}) says that data/ "
            f"is what a generator made; set data.embedded to none"
        )
    try:
        reward_functions.check_installed(retrain.judges.safety)
    except ConfigError as error:
        raise ConfigError(f"retrain.safety: {str(error).removeprefix('ppo.rewards: ')}") from error


def bring_data(config: DataConfig, retrain: RetrainConfig, root: Path) -> DataConfig:
    """Bring the data of the configured source here.

    Args:
        config: the recipe's data settings.
        retrain: names the source.
        root: the project's root.

    Returns:
        The data settings with the path that is to be read.

    Raises:
        DataError: the source is not there, or is not as it should be.
    """
    from rlhf.data.feedback import check_out_branch, import_inbox

    if retrain.inbox is not None:
        import_inbox(retrain.inbox, root)
    if retrain.branch is not None:
        return config.model_copy(update={"path": check_out_branch(retrain.branch, root)})
    return config


def record_proposal(proposal: Proposal) -> None:
    """Write a proposal down with the run that trained its candidate."""
    tracking.set_tags(proposal.run_id, {_PROPOSAL: proposal.model_dump_json()})


def proposal_of(flow_run_id: str) -> Proposal | None:
    """The candidate that a flow run has trained and compared; None where it has not come so far."""
    found = tracking.pipeline_runs(tracking.FLOW_RUN_TAG, flow_run_id).values()
    return next((Proposal.model_validate_json(tags[_PROPOSAL]) for tags in found if _PROPOSAL in tags), None)


def open_question(proposal: Proposal, flow_run_id: str, hours: float) -> Question:
    """Write down that a person is asked, and until when."""
    until = datetime.now(UTC) + timedelta(hours=hours)
    tracking.set_tags(proposal.run_id, {_APPROVAL: "open", _UNTIL: until.isoformat()})
    return Question(flow_run_id, proposal, until)


def question_of(flow_run_id: str) -> Question | None:
    """What a flow run has asked, answered or not; None where it has asked nothing."""
    found = tracking.pipeline_runs(tracking.FLOW_RUN_TAG, flow_run_id).values()
    return next((_question(tags) for tags in found if _APPROVAL in tags), None)


def open_questions() -> list[Question]:
    """All that nobody has answered yet."""
    return [_question(tags) for tags in tracking.pipeline_runs(_APPROVAL, "open").values()]


def record_answer(question: Question, decision: Decision, reason: str) -> None:
    """Write an answer down with the run and with the candidate's version, and end the run. Who gave it is not known."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    tags = {_APPROVAL: decision, _REASON: reason, _AT: at}
    if is_registered(question.proposal.candidate):
        tag_version(question.proposal.candidate, tags)
    tracking.set_tags(question.proposal.run_id, tags)
    tracking.close_run(question.proposal.run_id, "FINISHED")


def refusal_of(version: str) -> str | None:
    """Why a person has refused this version before; None where nobody has."""
    tags = version_tags(version)
    return f"{tags[_REASON]} ({tags[_AT]})" if tags.get(_APPROVAL) == "reject" else None


def _question(tags: dict[str, str]) -> Question:
    proposal = Proposal.model_validate_json(tags[_PROPOSAL])
    return Question(tags[tracking.FLOW_RUN_TAG], proposal, datetime.fromisoformat(tags[_UNTIL]))

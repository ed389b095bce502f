"""Decisions and memory of retraining: whether there is something new, and what a person was asked.

The memory is tags in MLflow, on the pipeline run that trained the candidate and on the candidate's version. A flow run
that was suspended finds its question there again, whatever data/ and the champion are by then.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from rlhf.config.data import DataConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.retrain import RetrainConfig
from rlhf.errors import ArtifactMismatchError, ConfigError, DataError
from rlhf.evaluation.bounds import level_of
from rlhf.references import Champion, ComparisonRef, Proposal, Spending
from rlhf.retraining.gates import deciding_gate, most_needed
from rlhf.rewards import functions as reward_functions
from rlhf.tracking.queries import pipeline_runs
from rlhf.tracking.registry import comparisons_with, is_registered, note_comparison, tag_version, version_tags
from rlhf.tracking.runs import close_run, set_tags
from rlhf.tracking.tags import (
    APPROVAL_AT_TAG,
    APPROVAL_REASON_TAG,
    APPROVAL_TAG,
    APPROVAL_UNTIL_TAG,
    FLOW_RUN_TAG,
    PROPOSAL_TAG,
    RECIPE_TAG,
)

Decision = Literal["approve", "reject", "expired", "withdrawn"]


@dataclass(frozen=True)
class ApprovalRequest:
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
    if not config.registered:
        raise ConfigError(
            f"registered is false in the recipe {config.name}, and retraining promotes registered policies only; set "
            "registered to true, or retrain another recipe"
        )
    if retrain.source != "local" and config.data.path != DataConfig().path:
        raise ConfigError(
            f"retrain.source is {retrain.source}, which decides where the data is, so data.path ({config.data.path}) "
            f"would be ignored; drop data.path, or set retrain.source to local"
        )
    if retrain.source != "local" and config.data.embedded is not None:
        raise ConfigError(
            f"retrain.source is {retrain.source}, which is about versions of data/, and the recipe reads "
            f"embedded/{config.data.embedded}, which has one version; set data.embedded to none"
        )
    try:
        reward_functions.check_installed(retrain.judges.safety)
    except ConfigError as error:
        raise ConfigError(f"retrain.safety: {str(error).removeprefix('rl.rewards: ')}") from error


def check_number_of_prompts(
    number: int, recipe: str, retrain: RetrainConfig, champion: str | None, *, of_settings: bool
) -> None:
    """Refuse gates that so few prompts cannot satisfy, whatever the candidate says.

    Args:
        number: gate prompts that are compared on.
        recipe: that is retrained.
        retrain: the gates.
        champion: the version that a candidate will be compared with.
        of_settings: it is what the recipe asks for; otherwise what the data has.

    Raises:
        ConfigError: the recipe asks for too few.
        DataError: the data has too few.
    """
    level = level_of(1 + max(comparisons_with(recipe, champion).values(), default=0), retrain.false_promotion_rate)
    needed, gate = most_needed(retrain, level)
    if number >= needed:
        return
    what = f"retrain: the gate {gate} can hold with {needed:,} gate prompts at the least, and"
    if of_settings:
        raise ConfigError(f"{what} evaluation.num_prompts is {number:,}; raise it, or loosen the gate")
    raise DataError(
        f"{what} the data has {number:,}; give more prompts, raise data.gate_fraction or data.test_fraction, or loosen "
        f"the gate. Nothing was trained"
    )


def check_judges(champion: Champion, retrain: RetrainConfig) -> None:
    """Refuse a champion whose reward models are gone, unless the candidate's alone shall judge.

    Raises:
        ArtifactMismatchError: the champion's own judge is gone.
    """
    if champion.reward_models is None and retrain.champion_judges:
        raise ArtifactMismatchError(
            f"version {champion.version}, the champion: its reward models are gone, of which the selection model "
            f"judges as well as the candidate's; `rlhf reproduce {champion.policy.run_id}` makes them again, or set "
            f"retrain.champion_judges to false, and the candidate's alone judges"
        )


def spending_of(
    recipe: str, retrain: RetrainConfig, champion: str | None, comparison: ComparisonRef
) -> Spending | None:
    """Share of the risk of a false promotion that a comparison may take; None where no gate asks for a gain."""
    gate = deciding_gate(retrain)
    if gate is None:
        return None
    limit = retrain.minimum_reward_gain if gate == "reward_gain" else retrain.minimum_win_rate
    assert limit is not None, "the gate is on"
    number = note_comparison(recipe, champion, comparison.sha256)
    rate = retrain.false_promotion_rate
    return Spending(
        champion=champion, comparison=number, level=level_of(number, rate), rate=rate, gate=gate, limit=limit
    )


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
    from rlhf.data.versions.inbox import check_out_branch, import_inbox

    if retrain.inbox is not None:
        import_inbox(retrain.inbox, root)
    if retrain.branch is not None:
        return config.model_copy(update={"path": check_out_branch(retrain.branch, root)})
    return config


def record_proposal(proposal: Proposal) -> None:
    """Write a proposal down with the run that trained its candidate."""
    set_tags(proposal.run_id, {PROPOSAL_TAG: proposal.model_dump_json(exclude_defaults=True)})


def proposal_of(flow_run_id: str) -> Proposal | None:
    """The candidate that a flow run has trained and compared; None where it has not come so far."""
    by_run = pipeline_runs(FLOW_RUN_TAG, flow_run_id).values()
    return next((Proposal.model_validate_json(tags[PROPOSAL_TAG]) for tags in by_run if PROPOSAL_TAG in tags), None)


def open_question(proposal: Proposal, flow_run_id: str, hours: float) -> ApprovalRequest:
    """Write down that a person is asked, and until when."""
    until = datetime.now(UTC) + timedelta(hours=hours)
    set_tags(proposal.run_id, {APPROVAL_TAG: "open", APPROVAL_UNTIL_TAG: until.isoformat()})
    return ApprovalRequest(flow_run_id, proposal, until)


def question_of(flow_run_id: str) -> ApprovalRequest | None:
    """Question that a flow run has asked, answered or not; None where it has asked nothing."""
    by_run = pipeline_runs(FLOW_RUN_TAG, flow_run_id).values()
    return next((_question(tags) for tags in by_run if APPROVAL_TAG in tags), None)


def open_questions(recipe: str | None = None) -> list[ApprovalRequest]:
    """All that nobody has answered yet, about the candidates of a recipe or of any."""
    waiting = pipeline_runs(APPROVAL_TAG, "open").values()
    return [_question(tags) for tags in waiting if recipe in (None, tags.get(RECIPE_TAG))]


def record_answer(question: ApprovalRequest, decision: Decision, reason: str) -> None:
    """Write an answer down with the run and with the candidate's version, and end the run. Who gave it is not known."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    tags = {APPROVAL_TAG: decision, APPROVAL_REASON_TAG: reason, APPROVAL_AT_TAG: at}
    if is_registered(question.proposal.candidate):
        tag_version(question.proposal.candidate, tags)
    set_tags(question.proposal.run_id, tags)
    close_run(question.proposal.run_id, "FINISHED")


def refusal_of(version: str) -> str | None:
    """Why a person has refused this version before; None where nobody has."""
    tags = version_tags(version)
    return f"{tags[APPROVAL_REASON_TAG]} ({tags[APPROVAL_AT_TAG]})" if tags.get(APPROVAL_TAG) == "reject" else None


def _question(tags: dict[str, str]) -> ApprovalRequest:
    proposal = Proposal.model_validate_json(tags[PROPOSAL_TAG])
    return ApprovalRequest(tags[FLOW_RUN_TAG], proposal, datetime.fromisoformat(tags[APPROVAL_UNTIL_TAG]))

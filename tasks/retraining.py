"""Retraining before and after it trains: whether there is something new, and the judgement of the candidate."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

from prefect.runtime import deployment
from prefect.runtime import flow_run as this_flow_run

from rlhf.config.pipeline import PipelineConfig
from rlhf.config.retrain import JudgesConfig, RetrainConfig
from rlhf.data.preparation.splits import prompt_key
from rlhf.errors import ConfigError
from rlhf.evaluation.prompts import gate_prompts
from rlhf.modeling.hub import sources_at_commits
from rlhf.modeling.run_models import check_hub_models, check_models
from rlhf.modeling.template_choice import source_settled
from rlhf.paths import root
from rlhf.references import AuditRef, Champion, ComparisonRef, DatasetRef, Proposal, RetrainReport
from rlhf.retraining import state as retraining
from rlhf.retraining.gates import ORDINARY_LEVEL, apply_gates, fitness_gate, gate_inputs
from rlhf.tracking import artifacts, registry
from rlhf.tracking.client import check_reachable
from rlhf.tracking.queries import tags_of
from rlhf.tracking.tags import VERSION_TAG
from tasks.approval import settle_questions
from tasks.evaluate_reward_models import read_audit
from tasks.pipeline_run import Pipeline
from tasks.prefect_artifacts import show_gates
from tasks.retrain_outcome import end


@dataclass(frozen=True)
class Start:
    """The start of a retraining run: what there is to do.

    Attributes:
        config: the recipe, with the data that is to be read.
        champion: what the candidate is compared with.
        report: the run is over.
        proposal: the run was suspended, and goes on with this candidate.
    """

    config: PipelineConfig
    champion: Champion | None = None
    report: RetrainReport | None = None
    proposal: Proposal | None = None


def begin(config: PipelineConfig, retrain: RetrainConfig) -> Start:
    """Clear up what earlier runs left, and see what is to be done.

    Raises:
        ConfigError: settings do not go together.
        DataError: the data is not there, or not as it should be.
        ArtifactMismatchError: the champion's artifact is gone or altered.
    """
    logging.getLogger("rlhf").setLevel(logging.INFO)
    _check(config, retrain)
    check_reachable()
    registry.recover()
    settle_questions()
    flow_run_id = str(this_flow_run.id)
    done = (last for last in registry.promotions() if last.state == "done" and last.flow_run_id == flow_run_id)
    last = next(done, None)
    if last is not None:
        reason = f"Version {last.to} is the champion since {last.at}."
        return Start(config, report=end("promoted", reason, proposal=retraining.proposal_of(flow_run_id)))
    question = retraining.question_of(flow_run_id)
    return Start(config, proposal=question.proposal) if question else _look_for_data(config, retrain)


def propose(
    run: Pipeline, audit: AuditRef, comparison: ComparisonRef, champion: Champion | None, retrain: RetrainConfig
) -> Proposal:
    """Apply the gates to a candidate that was compared, and write down what they say.

    Args:
        run: the pipeline run that trained it, with its policy registered.
        audit: of its reward models.
        comparison: with the champion.
        champion: what it was compared with.
        retrain: the gates.
    """
    assert run.source is not None, "the data stage has noted its source"
    compared = json.loads((artifacts.local_path(comparison) / "comparison.json").read_text(encoding="utf-8"))
    version = champion.version if champion else None
    spending = retraining.spending_of(run.record.recipe, retrain, version, comparison)
    fitness = fitness_gate(retrain, read_audit(audit))
    of_comparison = apply_gates(retrain, gate_inputs(compared), spending.level if spending else ORDINARY_LEVEL)
    gates = (*filter(None, (fitness,)), *run.verdicts, *of_comparison)
    show_gates(gates, spending)
    proposal = Proposal(
        run_id=run.run_id,
        candidate=tags_of(run.run_id)[VERSION_TAG],
        champion=version,
        data_md5=run.source.md5,
        gates=gates,
        spending=spending,
    )
    retraining.record_proposal(proposal)
    return proposal


def enough_prompts(
    config: PipelineConfig, retrain: RetrainConfig, champion: Champion | None
) -> Callable[[DatasetRef], None]:
    """The check that prepared data has gate prompts enough for the gates, to be made before anything is trained."""

    def check(data: DatasetRef) -> None:
        prompts = gate_prompts(artifacts.local_path(data), config.evaluation).prompts
        number, version = len(set(map(prompt_key, prompts))), champion.version if champion else None
        retraining.check_number_of_prompts(number, config.name, retrain, version, of_settings=False)

    return check


def judges_of(retrain: RetrainConfig) -> JudgesConfig:
    """Who judges the candidate beside the gold rule, with models of the hub at the commits that they have now.

    Raises:
        ModelError: the hub does not have one, or does not answer, or a model is not whole.
    """
    judges = retrain.judges
    safety = tuple(map(source_settled, sources_at_commits(judges.safety)))
    check_hub_models(None, safety)
    return judges.model_copy(update={"safety": safety})


def _look_for_data(config: PipelineConfig, retrain: RetrainConfig) -> Start:
    from rlhf.data.versions.resolve import resolve

    waiting = retraining.open_questions(config.name)
    if waiting:
        asked = waiting[0]
        reason = (
            f"Flow run {asked.flow_run_id} waits until {asked.deadline} for a person to say "
            f"whether version {asked.proposal.candidate} becomes the champion."
        )
        return Start(config, report=end("approval open", reason))
    # Before anything is brought or trained: without a sound champion there is nothing to compare with.
    champion = registry.champion(config.name)
    version = champion.version if champion else None
    retraining.check_number_of_prompts(config.evaluation.num_prompts, config.name, retrain, version, of_settings=True)
    if champion is not None and config.data.embedded is None:
        retraining.check_judges(champion, retrain)
    data = retraining.bring_data(config.data, retrain, root())
    md5 = resolve(data, root()).md5
    if champion is not None and champion.data_md5 == md5:
        reason = f"The champion, version {champion.version}, was trained on this version of the data, {md5}."
        return Start(config, report=end("no new data", reason, data_md5=md5))
    return Start(config.model_copy(update={"data": data}), champion)


def _check(config: PipelineConfig, retrain: RetrainConfig) -> None:
    retraining.check_settings(config, retrain)
    if retrain.ask and deployment.id is None:
        raise ConfigError(
            "retrain.ask is set, but this flow run belongs to no deployment, so it cannot be suspended until a person "
            "has answered; start it from its deployment, or set retrain.ask to false"
        )
    check_models(None, retrain.judges.safety)

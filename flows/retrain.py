"""Retraining: is there new data, is what comes of it better, and if so it becomes the champion."""

from prefect import flow

from rlhf.config.pipeline import PipelineConfig
from rlhf.config.retrain import RetrainConfig
from rlhf.references import (
    AuditRef,
    Champion,
    DatasetRef,
    ModelCardRef,
    ModelRef,
    PolicyRef,
    Proposal,
    RetrainReport,
    RewardModelsRef,
)
from tasks.approval import ask
from tasks.compare_policies import compare_policies
from tasks.pipeline_run import cancel_on_signal, flow_run_name, pipeline_run
from tasks.promote import promote
from tasks.retrain_outcome import reject
from tasks.retraining import begin, enough_prompts, judges_of, propose
from tasks.stages import run_stages


@flow(
    name="retrain",
    flow_run_name=flow_run_name,
    on_crashed=[cancel_on_signal],
    persist_result=True,
    result_serializer="json",
)
def retrain(config: PipelineConfig, retrain: RetrainConfig) -> RetrainReport:
    """Train a candidate where there is new data, and make it the champion where it is better."""
    start = begin(config, retrain)
    if start.report is not None:
        return start.report
    proposal = start.proposal or _train_candidate(start.config, retrain, start.champion)
    if proposal.failed:
        return reject(proposal)
    if retrain.ask:
        refusal = ask(proposal, retrain.approval_timeout_hours)
        if refusal is not None:
            return refusal
    return promote(proposal)


def _train_candidate(config: PipelineConfig, retrain: RetrainConfig, champion: Champion | None) -> Proposal:
    """Run all stages, compare with the champion, and apply the gates."""
    judges = judges_of(retrain)
    with pipeline_run(config) as (run, config):
        made = run_stages(config, enough_prompts(config, retrain, champion))
        comparison = compare_policies(
            config.evaluation,
            judges,
            config.setup,
            config.policy.max_response_tokens,
            made[DatasetRef],
            made[PolicyRef],
            champion=champion.policy if champion else made[ModelRef],
            sft=made[ModelRef],
            reward_models=made[RewardModelsRef],
            champion_reward_models=champion.reward_models if champion and retrain.champion_judges else None,
        )
        run.report(made[ModelCardRef])
        return propose(run, made[AuditRef], comparison, champion, retrain)

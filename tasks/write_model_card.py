"""The model card, and the registration of the policy that it describes."""

from rlhf import provenance, tracking
from rlhf.config import PipelineConfig
from rlhf.references import AuditRef, DatasetRef, EvaluationRef, ModelCardRef, PolicyRef
from tasks.pipeline import current_pipeline
from tasks.stage import StageRun, stage


def write_model_card(
    config: PipelineConfig, data: DatasetRef, audit: AuditRef, evaluation: EvaluationRef, policy: PolicyRef
) -> ModelCardRef:
    """Write the card beside the policy and register both as the candidate."""
    card = _write(config, data, audit, evaluation, policy)
    pipeline = current_pipeline()
    version = tracking.register_policy(card, {"pipeline_run_id": pipeline.run_id})
    tracking.set_tags(pipeline.run_id, {"policy.version": version, "policy.sha256": card.sha256})
    return card


@stage("model_card", module="rlhf.model_card", makes=ModelCardRef)
def _write(
    run: StageRun,
    config: PipelineConfig,
    data: DatasetRef,
    audit: AuditRef,
    evaluation: EvaluationRef,
    policy: PolicyRef,
) -> None:
    """Describe data, procedure, audit, results and limits, beside the policy's weights."""
    from rlhf.model_card import CardFacts
    from rlhf.model_card import write_model_card as write

    git = run.pipeline.git
    facts = CardFacts(
        run_id=run.pipeline.run_id,
        git_commit=git.commit,
        git_dirty=git.dirty,
        data_source=data.source,
        lock_sha256=provenance.lock_sha256(),
        stages=tuple(run.pipeline.stages),
    )
    folders = (run.local(reference) for reference in (data, audit, evaluation, policy))
    write(config, facts, *folders, run.workspace)

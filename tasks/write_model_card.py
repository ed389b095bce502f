"""The task of the model card."""

from rlhf import provenance
from rlhf.config import PipelineConfig
from rlhf.references import AuditRef, DatasetRef, EvaluationRef, ModelCardRef, PolicyRef
from tasks.pipeline import current
from tasks.stage import Attempt, stage


@stage("model_card", version="1", module="rlhf.model_card")
def write_model_card(
    attempt: Attempt,
    config: PipelineConfig,
    data: DatasetRef,
    audit: AuditRef,
    evaluation: EvaluationRef,
    policy: PolicyRef,
) -> ModelCardRef:
    """Put the policy and its card into one folder that loads with from_pretrained."""
    from rlhf import model_card

    run = current()
    facts = model_card.CardFacts(
        run_id=run.run_id,
        git_commit=run.git.commit,
        git_dirty=run.git.dirty,
        data_source=run.source or data.source,
        lock_sha256=provenance.lock_sha256(),
        stages=tuple(run.stages),
    )
    model_card.write_model_card(
        config,
        facts,
        attempt.path(data),
        attempt.path(audit),
        attempt.path(evaluation),
        attempt.path(policy),
        attempt.workspace,
    )
    return attempt.save(ModelCardRef)

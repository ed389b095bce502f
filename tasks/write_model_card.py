"""The task of the model card."""

from rlhf.config.pipeline import PipelineConfig
from rlhf.references import AuditRef, DatasetRef, EvaluationRef, ModelCardRef, PolicyRef
from tasks.pipeline_run import current
from tasks.stage import Attempt, stage


def write_model_card(
    config: PipelineConfig, data: DatasetRef, audit: AuditRef, evaluation: EvaluationRef, policy: PolicyRef
) -> ModelCardRef:
    """Put the policy, its card and the record of where it comes from into one folder."""
    return _write(config, current().record.digest, data, audit, evaluation, policy)


@stage("model_card", version="2", module="rlhf.model_card.card")
def _write(
    attempt: Attempt,
    config: PipelineConfig,
    provenance: str,
    data: DatasetRef,
    audit: AuditRef,
    evaluation: EvaluationRef,
    policy: PolicyRef,
) -> ModelCardRef:
    """Make a folder that loads with from_pretrained, for the provenance with this digest."""
    from rlhf.model_card import card as model_card

    run = current()
    facts = model_card.CardFacts(
        run_id=run.run_id,
        record=run.record,
        data_source=run.source or data.source,
        stages=tuple(run.stages),
        gates=run.verdicts,
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

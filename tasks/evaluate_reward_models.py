"""The task of reward-model evaluation."""

import json
from typing import Any

from rlhf.config.evaluation import RewardAuditConfig
from rlhf.config.model import Setup
from rlhf.errors import UnfitRewardModelError
from rlhf.references import AuditRef, DatasetRef, RewardModelsRef
from rlhf.tracking.artifacts import local_path
from tasks.stage import Attempt, stage


@stage("reward_audit", version="1", module="rlhf.evaluation.reward_audit")
def evaluate_reward_models(
    attempt: Attempt, config: RewardAuditConfig, setup: Setup, data: DatasetRef, reward_models: RewardModelsRef
) -> AuditRef:
    """Measure both reward models on held-out pairs."""
    from rlhf.evaluation.reward_audit import audit_reward_models

    audit_reward_models(
        config, attempt.setup(setup), attempt.path(data), attempt.path(reward_models), attempt.workspace
    )
    return attempt.save(AuditRef)


def read_audit(audit: AuditRef) -> dict[str, Any]:
    """Figures and verdict of an audit."""
    found: dict[str, Any] = json.loads((local_path(audit) / "audit.json").read_text(encoding="utf-8"))
    return found


def refuse_unfit(audit: AuditRef) -> None:
    """Stop where a reward model is unfit.

    Raises:
        UnfitRewardModelError: it is, with the audit's reasons.
    """
    found = read_audit(audit)
    if found["verdict"] == "unfit":
        raise UnfitRewardModelError(found["reasons"], audit.run_id)

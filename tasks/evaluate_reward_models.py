"""The task of reward-model evaluation."""

import json
from collections.abc import Mapping
from typing import Any

from rlhf.config.evaluation import RewardAuditConfig
from rlhf.config.model import Setup
from rlhf.config.supervised import RewardModelConfig
from rlhf.errors import UnfitRewardModelError
from rlhf.references import AuditRef, DatasetRef, ModelRef, RewardModelsRef
from rlhf.tracking.artifacts import local_path
from tasks.stage import Attempt, stage


def _module(arguments: Mapping[str, Any]) -> str:
    """The module that does the work: what trains models counts only where some are trained."""
    return "rlhf.evaluation.reward_audit" if arguments["start"] is None else "rlhf.supervised.learning_curve"


@stage("reward_audit", version="1", module=_module)
def evaluate_reward_models(
    attempt: Attempt,
    config: RewardAuditConfig,
    setup: Setup,
    data: DatasetRef,
    reward_models: RewardModelsRef,
    training: RewardModelConfig | None = None,
    start: ModelRef | None = None,
) -> AuditRef:
    """Measure both reward models on held-out pairs.

    `training` and `start` are what a learning curve is made with, and None without one.
    """
    setup, prepared, trained = attempt.setup(setup), attempt.path(data), attempt.path(reward_models)
    if training is None or start is None:
        from rlhf.evaluation.reward_audit import audit_reward_models

        audit_reward_models(config, setup, prepared, trained, attempt.workspace)
    else:
        from rlhf.supervised.learning_curve import audit_with_learning_curve

        sft = attempt.path(start)
        audit_with_learning_curve(config, training, setup, prepared, sft, trained, attempt.workspace)
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

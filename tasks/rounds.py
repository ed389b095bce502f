"""What came of a round with feedback, as curves of the pipeline run over its rounds."""

from rlhf.references import AuditRef, FeedbackRef, PolicyRef
from rlhf.text.lines import read_json_lines
from rlhf.tracking.artifacts import local_path
from rlhf.tracking.queries import metrics_of
from rlhf.tracking.runs import log_metrics
from tasks.evaluate_reward_models import read_audit
from tasks.pipeline_run import current

_OF_ANSWERS = {
    "feedback/gold": "rounds/answers_gold",
    "feedback/reward_model_accuracy": "rounds/earlier_reward_model_accuracy",
}


def log_round(number: int, feedback: FeedbackRef, audit: AuditRef, policy: PolicyRef) -> None:
    """Log a round's figures at the step of its number.

    They are the gold reward of the answers that were compared; how often the reward model of before knows which of them
    is better; how often the new one does, on pairs of the round that it has not learned; and the KL of the policy that
    was trained on it to its start.

    Args:
        number: of the round, from 1 on.
        feedback: of the round.
        audit: of the reward models that learned from it.
        policy: that these trained.
    """
    measured = metrics_of(feedback.run_id)
    figures = {ours: measured[name] for name, ours in _OF_ANSWERS.items() if name in measured}
    models = read_audit(audit)["models"]
    of_round = [
        group["accuracy"]["value"]
        for group in models["reward_model"]["by_source"]
        if group["source"].endswith(f", round {number}")
    ]
    if of_round:
        figures["rounds/reward_model_accuracy"] = of_round[0]
    evaluations = read_json_lines(local_path(policy) / "evaluations.jsonl")
    figures["rounds/kl"] = next(row["kl"] for row in evaluations if row["chosen"])
    log_metrics(current().run_id, figures, step=number)

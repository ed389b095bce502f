"""A round of feedback: ask people about a policy's answers, and take what they say into the data."""

from prefect import flow

from rlhf.config.feedback import AskConfig, CollectConfig, ReviseConfig
from rlhf.config.judge import JudgeConfig, LabelConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.references import FeedbackReport
from tasks.feedback import ask_round, collect_round, label_round, revise_answers
from tasks.pipeline_run import cancel_on_signal


@flow(name="feedback-ask", flow_run_name="ask {ask.round}", on_crashed=[cancel_on_signal])
def ask_feedback(config: PipelineConfig, ask: AskConfig) -> FeedbackReport:
    """Ask people to compare answers of a policy, in MLflow's review page.

    Args:
        config: The recipe.
        ask: The round.
    """
    return ask_round(config, ask)


@flow(name="feedback-label", flow_run_name="label {label.round}", on_crashed=[cancel_on_signal])
def label_feedback(label: LabelConfig, judge: JudgeConfig) -> FeedbackReport:
    """Have a model label a round's comparisons, measured against people first.

    Args:
        label: The round, and when the judge is believed.
        judge: The model.
    """
    return label_round(label, judge)


@flow(name="feedback-revise", flow_run_name="revise {revise.round}", on_crashed=[cancel_on_signal])
def revise_answers_of(
    config: PipelineConfig, revise: ReviseConfig, critic: JudgeConfig | None = None
) -> FeedbackReport:
    """Have a policy's answers criticized and revised by principles, and make demonstrations of that.

    Args:
        config: The recipe.
        revise: Prompts, principles, number of revisions.
        critic: A model that criticizes and revises. Empty: the policy itself.
    """
    return revise_answers(config, revise, critic)


@flow(name="feedback-collect", flow_run_name="collect {collect.round}", on_crashed=[cancel_on_signal])
def collect_feedback(collect: CollectConfig) -> FeedbackReport:
    """Make a new version of the data of what was answered in a round, as often as wanted.

    Args:
        collect: The round.
    """
    return collect_round(collect)

"""Each stage as a flow of its own, on the outputs of earlier runs.

An earlier run is named by its MLflow run id: that of a pipeline run, or that of the stage's own run.
"""

from prefect import flow

from rlhf.config import PipelineConfig
from rlhf.references import (
    AuditRef,
    DatasetRef,
    EvaluationRef,
    ModelRef,
    PipelineReport,
    PolicyRef,
    RewardModelsRef,
    StageReport,
)
from tasks.evaluate_policy import evaluate_policy
from tasks.evaluate_reward_models import evaluate_reward_models
from tasks.pipeline import cancel_on_signal, flow_run_name, pipeline_run
from tasks.prepare_data import prepare_data
from tasks.train_ppo import train_ppo
from tasks.train_reward_models import train_reward_models
from tasks.train_sft import train_sft
from tasks.write_model_card import write_model_card


@flow(name="data", flow_run_name=flow_run_name, on_crashed=[cancel_on_signal])
def data_stage(config: PipelineConfig) -> StageReport:
    """Prepare the data."""
    with pipeline_run(config) as (run, config):
        prepare_data(config.data, config.model, config.ppo.max_response_tokens)
        return run.stages[-1]


@flow(name="sft", flow_run_name=flow_run_name, on_crashed=[cancel_on_signal])
def sft_stage(config: PipelineConfig, data_run: str) -> StageReport:
    """Fine-tune on the demonstrations."""
    with pipeline_run(config) as (run, config):
        train_sft(config.sft, config.setup, run.use(data_run, DatasetRef))
        return run.stages[-1]


@flow(name="reward-model", flow_run_name=flow_run_name, on_crashed=[cancel_on_signal])
def reward_model_stage(config: PipelineConfig, data_run: str, sft_run: str) -> StageReport:
    """Train the two reward models."""
    with pipeline_run(config) as (run, config):
        data, sft = run.use(data_run, DatasetRef), run.use(sft_run, ModelRef)
        train_reward_models(config.reward_model, config.setup, data, start=sft)
        return run.stages[-1]


@flow(name="reward-audit", flow_run_name=flow_run_name, on_crashed=[cancel_on_signal])
def reward_audit_stage(config: PipelineConfig, data_run: str, reward_models_run: str) -> StageReport:
    """Measure the reward models."""
    with pipeline_run(config) as (run, config):
        data, reward_models = run.use(data_run, DatasetRef), run.use(reward_models_run, RewardModelsRef)
        evaluate_reward_models(config.reward_audit, config.setup, data, reward_models)
        return run.stages[-1]


@flow(name="ppo", flow_run_name=flow_run_name, on_crashed=[cancel_on_signal])
def ppo_stage(config: PipelineConfig, data_run: str, sft_run: str, reward_models_run: str) -> StageReport:
    """Run PPO."""
    with pipeline_run(config) as (run, config):
        data, sft = run.use(data_run, DatasetRef), run.use(sft_run, ModelRef)
        reward_models = run.use(reward_models_run, RewardModelsRef)
        train_ppo(config.ppo, config.setup, data, start=sft, reward_models=reward_models)
        return run.stages[-1]


@flow(name="evaluation", flow_run_name=flow_run_name, on_crashed=[cancel_on_signal])
def evaluation_stage(
    config: PipelineConfig, data_run: str, sft_run: str, reward_models_run: str, ppo_run: str
) -> StageReport:
    """Compare a policy with its SFT baseline."""
    with pipeline_run(config) as (run, config):
        data, sft = run.use(data_run, DatasetRef), run.use(sft_run, ModelRef)
        reward_models, policy = run.use(reward_models_run, RewardModelsRef), run.use(ppo_run, PolicyRef)
        evaluate_policy(
            config.evaluation,
            config.setup,
            config.ppo.max_response_tokens,
            data,
            policy,
            baseline=sft,
            reward_models=reward_models,
        )
        return run.stages[-1]


@flow(name="model-card", flow_run_name=flow_run_name, on_crashed=[cancel_on_signal])
def model_card_stage(
    config: PipelineConfig, data_run: str, reward_audit_run: str, ppo_run: str, evaluation_run: str
) -> PipelineReport:
    """Write the model card, and register the policy."""
    with pipeline_run(config) as (run, config):
        data, audit = run.use(data_run, DatasetRef), run.use(reward_audit_run, AuditRef)
        policy, evaluation = run.use(ppo_run, PolicyRef), run.use(evaluation_run, EvaluationRef)
        return run.report(write_model_card(config, data, audit, evaluation, policy))

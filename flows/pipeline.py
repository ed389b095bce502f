"""The whole pipeline."""

from prefect import flow

from rlhf.config import PipelineConfig
from rlhf.references import PipelineReport
from tasks.evaluate_policy import evaluate_policy
from tasks.evaluate_reward_models import evaluate_reward_models
from tasks.pipeline import cancel_on_signal, flow_run_name, pipeline_run
from tasks.prepare_data import prepare_data
from tasks.train_ppo import train_ppo
from tasks.train_reward_models import train_reward_models
from tasks.train_sft import train_sft
from tasks.write_model_card import write_model_card


@flow(name="rlhf-pipeline", flow_run_name=flow_run_name, on_crashed=[cancel_on_signal])
def rlhf_pipeline(config: PipelineConfig) -> PipelineReport:
    """Align a language model with human preferences."""
    with pipeline_run(config) as run:
        setup = config.setup
        max_response_tokens = config.ppo.max_response_tokens
        data = prepare_data(config.data, config.model, max_response_tokens)
        sft = train_sft(config.sft, setup, data)
        reward_models = train_reward_models(config.reward_model, setup, data, start=sft)
        audit = evaluate_reward_models(config.reward_audit, setup, data, reward_models)
        policy = train_ppo(config.ppo, setup, data, start=sft, reward_models=reward_models)
        evaluation = evaluate_policy(
            config.evaluation, setup, max_response_tokens, data, policy, baseline=sft, reward_models=reward_models
        )
        card = write_model_card(config, data, audit, evaluation, policy)
        return run.report(card)

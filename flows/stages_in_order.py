"""The stages from data to model card, in their order. What the pipeline and retraining have in common."""

from dataclasses import dataclass

from rlhf.config import PipelineConfig
from rlhf.references import DatasetRef, EvaluationRef, ModelCardRef, ModelRef, PolicyRef, RewardModelsRef
from tasks.evaluate_policy import evaluate_policy
from tasks.evaluate_reward_models import evaluate_reward_models
from tasks.prepare_data import prepare_data
from tasks.train_ppo import train_ppo
from tasks.train_reward_models import train_reward_models
from tasks.train_sft import train_sft
from tasks.write_model_card import write_model_card


@dataclass(frozen=True)
class Outputs:
    """What the stages made."""

    data: DatasetRef
    sft: ModelRef
    reward_models: RewardModelsRef
    policy: PolicyRef
    evaluation: EvaluationRef
    card: ModelCardRef


def run_stages(config: PipelineConfig) -> Outputs:
    """Run the stages that are not found. Call it inside `tasks.pipeline.pipeline_run`."""
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
    return Outputs(data, sft, reward_models, policy, evaluation, card)

"""The tasks of the stages of `rlhf.stages`, by the stages' names: what each of them takes from the recipe."""

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from rlhf.config.pipeline import PipelineConfig
from rlhf.references import AuditRef, DatasetRef, EvaluationRef, ModelRef, PolicyRef, Reference, RewardModelsRef
from rlhf.stages import pipeline_stages, round_name
from tasks.evaluate_policy import evaluate_policy
from tasks.evaluate_reward_models import evaluate_reward_models
from tasks.prepare_data import prepare_data
from tasks.stage import as_round
from tasks.train_policy import train_policy
from tasks.train_reward_models import train_reward_models
from tasks.train_sft import train_sft
from tasks.write_model_card import write_model_card

AnyReference = TypeVar("AnyReference", bound=Reference)


class Outputs:
    """The outputs of stages so far, each by the kind of its reference."""

    def __init__(self) -> None:
        self._made: dict[type[Reference], Reference] = {}

    def add(self, reference: Reference) -> None:
        """Add the output of the next stage."""
        self._made[type(reference)] = reference

    def __contains__(self, kind: type[Reference]) -> bool:
        """Whether there is an output of this kind."""
        return kind in self._made

    def get(self, kind: type[AnyReference]) -> AnyReference | None:
        """The output of this kind; None where there is none."""
        return cast("AnyReference | None", self._made.get(kind))

    def __getitem__(self, kind: type[AnyReference]) -> AnyReference:
        """The output of this kind."""
        return cast("AnyReference", self._made[kind])


def _train_in_rounds(config: PipelineConfig, made: Outputs) -> PolicyRef:
    """Train the policy of each round; the last one is the recipe's."""
    policies: list[PolicyRef] = []
    for number, recipe in enumerate(config.per_round, 1):
        with as_round(round_name(number) if number <= len(config.rounds) else None):
            policy = train_policy(
                recipe.method,
                recipe.policy,
                config.setup,
                made[DatasetRef],
                start=policies[-1] if recipe.start == "previous" else made[ModelRef],
                reward_models=made[RewardModelsRef],
                earlier=tuple(policies) if recipe.method == "best_of_n" else (),
            )
        policies.append(policy)
    return policies[-1]


STAGE_TASKS: Mapping[str, Callable[[PipelineConfig, Outputs], Reference]] = {
    "data": lambda config, made: prepare_data(config.data, config.model, config.max_response_tokens, config.compute),
    "sft": lambda config, made: train_sft(config.sft, config.setup, made[DatasetRef]),
    "reward_model": lambda config, made: train_reward_models(
        config.reward_model, config.setup, made[DatasetRef], start=made[ModelRef]
    ),
    "reward_audit": lambda config, made: evaluate_reward_models(
        config.reward_audit, config.setup, made[DatasetRef], made[RewardModelsRef]
    ),
    "policy": lambda config, made: _train_in_rounds(config, made),
    "evaluation": lambda config, made: evaluate_policy(
        config.evaluation,
        config.setup,
        config.policy.max_response_tokens,
        made[DatasetRef],
        made[PolicyRef],
        baseline=made[ModelRef],
        reward_models=made[RewardModelsRef],
    ),
    "model_card": lambda config, made: write_model_card(
        config, made[DatasetRef], made[AuditRef], made[EvaluationRef], made[PolicyRef]
    ),
}


def run_stages(config: PipelineConfig, check_data: Callable[[DatasetRef], None] = lambda _: None) -> Outputs:
    """Run the stages that are not found. Call it inside `tasks.pipeline_run.pipeline_run`.

    Args:
        config: the recipe.
        check_data: refuses prepared data before anything is trained on it.
    """
    made = Outputs()
    for stage in pipeline_stages():
        made.add(STAGE_TASKS[stage.name](config, made))
        if stage.output is DatasetRef:
            check_data(made[DatasetRef])
    return made

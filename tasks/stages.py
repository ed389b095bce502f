"""The tasks of the stages of `rlhf.stages`, by the stages' names: what each of them takes from the recipe."""

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import ConfigError
from rlhf.references import (
    AuditRef,
    DatasetRef,
    EvaluationRef,
    FeedbackRef,
    ModelRef,
    PolicyRef,
    Reference,
    RevisionsRef,
    RewardModelsRef,
)
from rlhf.stages import StageSpec, pipeline_stages, round_name, title_of
from tasks.evaluate_policy import evaluate_policy
from tasks.evaluate_reward_models import evaluate_reward_models
from tasks.give_feedback import give_feedback
from tasks.prepare_data import CollectedSoFar, prepare_data
from tasks.revise_sft import revise_sft
from tasks.rounds import log_round
from tasks.stage import as_round, is_planning
from tasks.train_policy import train_policy
from tasks.train_reward_models import train_reward_models
from tasks.train_sft import train_sft
from tasks.write_model_card import write_model_card

AnyReference = TypeVar("AnyReference", bound=Reference)


class Outputs:
    """The outputs of stages so far, each by the kind of its reference.

    Attributes:
        collected: revised answers and feedback, in their order, all of which join the data.
    """

    def __init__(self) -> None:
        self._made: dict[type[Reference], Reference] = {}
        self.collected: tuple[FeedbackRef | RevisionsRef, ...] = ()

    def add(self, reference: Reference) -> None:
        """Add the output of the next stage."""
        self._made[type(reference)] = reference

    def collect(self, reference: FeedbackRef | RevisionsRef) -> None:
        """Add rows that join the data."""
        self.collected += (reference,)

    def __contains__(self, kind: type[Reference]) -> bool:
        """Whether there is an output of this kind."""
        return kind in self._made

    def get(self, kind: type[AnyReference]) -> AnyReference | None:
        """The output of this kind; None where there is none."""
        return cast("AnyReference | None", self._made.get(kind))

    def __getitem__(self, kind: type[AnyReference]) -> AnyReference:
        """The output of this kind."""
        return cast("AnyReference", self._made[kind])


def _train_sft(config: PipelineConfig, made: Outputs) -> ModelRef:
    """Train the SFT policy; with revisions first the one whose answers are revised."""
    if config.revision is None:
        return train_sft(config.sft, config.setup, made[DatasetRef])
    with as_round(round_name(0, "sft")):
        first = train_sft(config.sft, config.setup, made[DatasetRef])
    longest, batch_size = config.max_response_tokens, config.evaluation.batch_size
    made.collect(revise_sft(config.revision, config.setup, longest, batch_size, config.gold, first))
    made.add(_prepare_data(config, made, given_preferences=True))
    return train_sft(config.sft, config.setup, made[DatasetRef])


def _prepare_data(config: PipelineConfig, made: Outputs, *, given_preferences: bool) -> DatasetRef:
    """Prepare the data, with what was collected by now."""
    before = made.get(DatasetRef)
    collected = None if before is None else CollectedSoFar(before, made.collected, given_preferences)
    number = len(made.collected)
    num_collected = sum(choice.feedback is not None for choice in config.per_round) + (config.revision is not None)
    with as_round(round_name(number, "data") if number < num_collected else None):
        return prepare_data(config.data, config.model, config.max_response_tokens, config.compute, collected)


def _learn_from_feedback(config: PipelineConfig, made: Outputs, number: int, policy: ModelRef | PolicyRef) -> None:
    """Have the newest policy's answers compared, and train reward models on that; audit them.

    Args:
        config: the recipe.
        made: the outputs so far, which get new data, reward models and audit.
        number: of the round, from 1 on.
        policy: the newest.
    """
    feedback = config.per_round[number - 1].feedback
    assert feedback is not None, "the round begins with it"
    is_last = all(choice.feedback is None for choice in config.per_round[number:])

    def name(stage: str) -> str | None:
        return None if is_last else round_name(number, stage)

    with as_round(name("feedback")):
        longest, batch_size = config.max_response_tokens, config.evaluation.batch_size
        reward_models = made.get(RewardModelsRef)
        data, gold = made[DatasetRef], config.gold
        given = give_feedback(feedback, config.setup, longest, batch_size, gold, number, data, policy, reward_models)
    made.collect(given)
    made.add(given)
    made.add(_prepare_data(config, made, given_preferences=feedback.given_preferences == "used"))
    with as_round(name("reward_model")):
        made.add(STAGE_TASKS["reward_model"](config, made))
    with as_round(name("reward_audit")):
        made.add(STAGE_TASKS["reward_audit"](config, made))


def _train_in_rounds(config: PipelineConfig, made: Outputs) -> PolicyRef:
    """Train the policy of each round; the last one is the recipe's."""
    policies: list[PolicyRef] = []
    for number, recipe in enumerate(config.per_round, 1):
        if recipe.feedback is not None:
            _learn_from_feedback(config, made, number, policies[-1] if policies else made[ModelRef])
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
        if recipe.feedback is not None and not is_planning():
            log_round(number, made[FeedbackRef], made[AuditRef], policy)
    return policies[-1]


STAGE_TASKS: Mapping[str, Callable[[PipelineConfig, Outputs], Reference]] = {
    "data": lambda config, made: _prepare_data(config, made, given_preferences=True),
    "sft": lambda config, made: _train_sft(config, made),
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


def stages_of(config: PipelineConfig) -> tuple[StageSpec, ...]:
    """The stages that a run of a recipe calls one after another.

    Where the first round's feedback asks no reward models, the first are trained on that feedback, within the round.
    """
    first = config.per_round[0].feedback
    later = () if first is None or first.choose != "random" else ("reward_model", "reward_audit")
    return tuple(stage for stage in pipeline_stages() if stage.name not in later)


def check_alone(stage: str, config: PipelineConfig) -> None:
    """Refuse to run a stage without the others, where it is several of them that belong together.

    Raises:
        ConfigError: the recipe collects feedback or revises answers within the stage.
    """
    feedback = any(choice.feedback is not None for choice in config.per_round)
    section = {"policy": "feedback" if feedback else "", "sft": "revision" if config.revision else ""}.get(stage)
    if section:
        raise ConfigError(
            f"recipe {config.name} has a section {section}, so its {title_of(stage)} is made together with data and "
            f"models in between; run the whole recipe, whose stages that were made before are found"
        )


def run_stages(config: PipelineConfig, check_data: Callable[[DatasetRef], None] = lambda _: None) -> Outputs:
    """Run the stages that are not found. Call it inside `tasks.pipeline_run.pipeline_run`.

    Args:
        config: the recipe.
        check_data: refuses prepared data before anything is trained on it.
    """
    made = Outputs()
    first = _names_of_first(config)
    for stage in stages_of(config):
        with as_round(first.get(stage.name)):
            made.add(STAGE_TASKS[stage.name](config, made))
        if stage.output is DatasetRef:
            check_data(made[DatasetRef])
    return made


def _names_of_first(config: PipelineConfig) -> dict[str, str]:
    """The names of the first reward models and their audit, where later rounds train others."""
    rounds = config.per_round
    if all(choice.feedback is None for choice in rounds):
        return {}
    number = 1 if rounds[0].feedback is None else 0
    return {stage: round_name(number, stage) for stage in ("reward_model", "reward_audit")}

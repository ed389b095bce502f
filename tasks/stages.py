"""The tasks of the stages of `rlhf.stages`, by the stages' names: what each of them takes from the recipe."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar, cast

from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import ConfigError
from rlhf.progress import StageBegan, tell
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
from rlhf.stages import STAGES, StageSpec, attempt_names, is_round, pipeline_stages, stage_name, title_of
from tasks.evaluate_policy import evaluate_policy
from tasks.evaluate_reward_models import evaluate_reward_models, refuse_unfit
from tasks.give_feedback import give_feedback
from tasks.pipeline_run import current
from tasks.pools import run_in_pool
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

    Args:
        names: of the attempts that are to come, in their order (`rlhf.stages.attempt_names`). A stage that has none
            left bears its own name.

    Attributes:
        collected: revised answers and feedback, in their order, all of which join the data.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._made: dict[type[Reference], Reference] = {}
        self._names: dict[str, list[str]] = {}
        for name in names:
            self._names.setdefault(stage_name(name), []).append(name)
        self.collected: tuple[FeedbackRef | RevisionsRef, ...] = ()

    @contextmanager
    def attempt(self, stage: str) -> Iterator[None]:
        """Within the block the next attempt at a stage is made, under its name."""
        names = self._names.get(stage)
        name = names.pop(0) if names else stage
        with as_round(name if is_round(name) else None):
            yield

    def rest_of(self, stage: str) -> list[str]:
        """The names of the attempts at a stage that are still to come, which somebody else makes."""
        return self._names.pop(stage, None) or [stage]

    def add(self, reference: Reference) -> None:
        """Add the output of the next stage."""
        self._made[type(reference)] = reference
        if isinstance(reference, FeedbackRef | RevisionsRef):
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

    def train() -> ModelRef:
        with made.attempt("sft"):
            return train_sft(config.sft, config.setup, made[DatasetRef])

    if config.revision is None:
        return train()
    policy = train()
    longest, batch_size = config.max_response_tokens, config.evaluation.batch_size
    made.add(revise_sft(config.revision, config.setup, longest, batch_size, config.gold, policy))
    made.add(_prepare_data(config, made))
    return train()


def _prepare_data(config: PipelineConfig, made: Outputs, *, given_preferences: bool = True) -> DatasetRef:
    """Prepare the data, with what was collected by now."""
    before = made.get(DatasetRef)
    collected = None if before is None else CollectedSoFar(before, made.collected, given_preferences)
    with made.attempt("data"):
        return prepare_data(config.data, config.model, config.max_response_tokens, config.compute, collected)


def _train_reward_models(config: PipelineConfig, made: Outputs) -> RewardModelsRef:
    with made.attempt("reward_model"):
        return train_reward_models(config.reward_model, config.setup, made[DatasetRef], start=made[ModelRef])


def _audit(config: PipelineConfig, made: Outputs) -> AuditRef:
    with made.attempt("reward_audit"):
        audit = evaluate_reward_models(config.reward_audit, config.setup, made[DatasetRef], made[RewardModelsRef])
    if config.reward_audit.on_unfit == "stop" and not is_planning():
        refuse_unfit(audit)
    return audit


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
    longest, batch_size = config.max_response_tokens, config.evaluation.batch_size
    setup, gold, data, reward_models = config.setup, config.gold, made[DatasetRef], made.get(RewardModelsRef)
    with made.attempt("feedback"):
        made.add(give_feedback(feedback, setup, longest, batch_size, gold, number, data, policy, reward_models))
    made.add(_prepare_data(config, made, given_preferences=feedback.given_preferences == "used"))
    made.add(_train_reward_models(config, made))
    made.add(_audit(config, made))


def _train_in_rounds(config: PipelineConfig, made: Outputs) -> PolicyRef:
    """Train the policy of each round; the last one is the recipe's."""
    policies: list[PolicyRef] = []
    for number, recipe in enumerate(config.per_round, 1):
        if recipe.feedback is not None:
            _learn_from_feedback(config, made, number, policies[-1] if policies else made[ModelRef])
        with made.attempt("policy"):
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
    "data": _prepare_data,
    "sft": _train_sft,
    "reward_model": _train_reward_models,
    "reward_audit": _audit,
    "policy": _train_in_rounds,
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


def _in_pool(pool: str, stage: StageSpec, config: PipelineConfig, made: Outputs) -> Reference:
    """Have a host of a pool make or find the output of a stage."""
    tell(StageBegan(stage.name))
    started = time.monotonic()
    inputs = [STAGES[name] for name in stage.inputs]
    runs = {spec.run_argument: made[spec.output].run_id for spec in inputs}
    flow_run_id = run_in_pool(pool, stage.name, config, runs, current().record.bases)
    return current().adopt(flow_run_id, made.rest_of(stage.name), stage.output, time.monotonic() - started)


def stages_of(config: PipelineConfig) -> tuple[StageSpec, ...]:
    """The stages that a run of a recipe calls one after another; what lies between rounds is called by the policy's."""
    stages = list(map(stage_name, attempt_names(config)))
    before_rounds = stages[: next(place for place, name in enumerate(stages) if name in ("feedback", "policy"))]
    within = {"reward_model", "reward_audit"}.difference(before_rounds)
    return tuple(stage for stage in pipeline_stages() if stage.name not in within)


def attempts_of(config: PipelineConfig) -> list[tuple[StageSpec, list[str]]]:
    """The names of the attempts that each call of a stage makes; a call ends with the last attempt at its stage."""
    rest = attempt_names(config)
    calls = []
    for spec in stages_of(config):
        several = spec.name in ("sft", "policy")
        end = max(place for place, name in enumerate(rest) if stage_name(name) == spec.name) if several else 0
        calls.append((spec, rest[: end + 1]))
        rest = rest[end + 1 :]
    return calls


def check_alone(stage: str, config: PipelineConfig) -> None:
    """Refuse to run a stage without the others, where it is several of them that belong together.

    Raises:
        ConfigError: the recipe collects feedback or revises answers within the stage.
    """
    feedback = config.asks_feedback
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
    made = Outputs(attempt_names(config))
    pools = config.cluster.stage_pools.chosen
    for stage in stages_of(config):
        pool = pools.get(stage.name)
        made.add(STAGE_TASKS[stage.name](config, made) if pool is None else _in_pool(pool, stage, config, made))
        if stage.output is DatasetRef:
            check_data(made[DatasetRef])
    return made

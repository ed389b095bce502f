"""The stages, in the order in which they run: one row for each, from which all that lists stages takes them.

Command line, deployments, comparison, lineage, model card and reproduction read this table. To add a stage: a row here,
a function that does its work, a task that adapts it, and the task's line in `tasks/stages.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from rlhf.references import (
    AuditRef,
    ComparisonRef,
    DatasetRef,
    EvaluationRef,
    FeedbackRef,
    ModelCardRef,
    ModelRef,
    PolicyRef,
    Reference,
    RevisionsRef,
    RewardModelsRef,
)

if TYPE_CHECKING:
    from rlhf.config.pipeline import PipelineConfig


@dataclass(frozen=True)
class StageSpec:
    """A stage.

    Attributes:
        name: in tags, and the prefix of its metrics.
        title: for people, in the middle of a sentence.
        summary: one sentence, for help and forms.
        output: the kind of its output; no two stages have the same.
        inputs: the stages whose outputs it reads.
        run_argument: the parameter, and flag, that names an earlier run of it.
        made_from: what a policy owes to the stage was made from, for the model card. None: a policy owes it nothing.
        in_pipeline: every pipeline run has it. Of the others some belong to recipes that ask for feedback.
        repeatable: it can be made again alone, and compared with what was recorded.
    """

    name: str
    title: str
    summary: str
    output: type[Reference]
    inputs: tuple[str, ...] = ()
    run_argument: str = ""
    made_from: str | None = None
    in_pipeline: bool = True
    repeatable: bool = True

    @property
    def command(self) -> str:
        """Its name on the command line and among deployments."""
        return self.name.replace("_", "-")

    @property
    def summary_alone(self) -> str:
        """For help and forms, of this stage without the others."""
        return f"{self.summary} This stage alone{', on the outputs of earlier runs' if self.inputs else ''}."

    @property
    def flag(self) -> str:
        """The flag that names an earlier run of it."""
        return f"--{self.run_argument.replace('_', '-')}"


_ROWS = (
    StageSpec(
        "data",
        title="prepared data",
        summary="Prepare the data.",
        output=DatasetRef,
        run_argument="data_run",
        made_from="data version",
    ),
    StageSpec(
        "sft",
        title="SFT policy",
        summary="Fine-tune on the demonstrations.",
        output=ModelRef,
        inputs=("data",),
        run_argument="sft_run",
        made_from="demonstrations",
    ),
    StageSpec(
        "revision",
        title="revised answers",
        summary="Criticize and revise answers of the SFT policy.",
        output=RevisionsRef,
        inputs=("sft",),
        made_from="SFT policy, principles",
        in_pipeline=False,
        repeatable=False,
    ),
    StageSpec(
        "feedback",
        title="feedback",
        summary="Have answers of the newest policy compared.",
        output=FeedbackRef,
        inputs=("data", "sft"),
        made_from="answers of the newest policy, compared by people or models",
        in_pipeline=False,
        repeatable=False,
    ),
    StageSpec(
        "reward_model",
        title="reward models",
        summary="Train the two reward models.",
        output=RewardModelsRef,
        inputs=("data", "sft"),
        run_argument="reward_models_run",
        made_from="SFT policy, preferences",
    ),
    StageSpec(
        "reward_audit",
        title="reward-model audit",
        summary="Measure the reward models.",
        output=AuditRef,
        inputs=("data", "sft", "reward_model"),
        run_argument="reward_audit_run",
    ),
    StageSpec(
        "policy",
        title="policy",
        summary="Train the policy by the recipe's method.",
        output=PolicyRef,
        inputs=("data", "sft", "reward_model"),
        run_argument="policy_run",
        made_from="SFT policy, reward models, prompts",
    ),
    StageSpec(
        "evaluation",
        title="evaluation",
        summary="Compare a policy with its SFT baseline.",
        output=EvaluationRef,
        inputs=("data", "sft", "reward_model", "policy"),
        run_argument="evaluation_run",
    ),
    StageSpec(
        "model_card",
        title="policy and card",
        summary="Write the model card, and register the policy.",
        output=ModelCardRef,
        inputs=("data", "reward_audit", "policy", "evaluation"),
        run_argument="model_card_run",
        repeatable=False,
    ),
    StageSpec(
        "comparison",
        title="comparison",
        summary="Compare a candidate with the champion.",
        output=ComparisonRef,
        inputs=("data", "policy", "sft", "reward_model"),
        in_pipeline=False,
        repeatable=False,
    ),
)

STAGES: Mapping[str, StageSpec] = {row.name: row for row in _ROWS}


def pipeline_stages() -> tuple[StageSpec, ...]:
    """Those of a pipeline run, in their order."""
    return tuple(stage for stage in STAGES.values() if stage.in_pipeline)


def repeatable_stages() -> tuple[str, ...]:
    """Names of the stages that can be made again alone."""
    return tuple(stage.name for stage in STAGES.values() if stage.repeatable)


def round_name(number: int, stage: str = "policy") -> str:
    """The name of a round before a recipe's own method, from 1 on, in tags and records of a pipeline run.

    Of other stages that a recipe with feedback runs again, that of an attempt before the last.
    """
    return f"{stage}.{number}"


def attempt_names(config: "PipelineConfig") -> list[str]:
    """The names of a run's attempts at its stages, in the order in which they run.

    The last attempt at a stage has the stage's name, and those before it have numbers: of policies, feedback and reward
    models that of the round, of data and SFT policies their own. Where the first round's feedback asks no reward
    models, none are trained before it.
    """
    rounds = config.per_round
    first = rounds[0].feedback
    attempts = [("data", 0), ("sft", 0)]
    if config.revision is not None:
        attempts += [("revision", 0), ("data", 1), ("sft", 1)]
    if first is None or first.choose != "random":
        number = 1 if first is None else 0
        attempts += [("reward_model", number), ("reward_audit", number)]
    for number, choice in enumerate(rounds, 1):
        if choice.feedback is not None:
            num_data = sum(stage == "data" for stage, _ in attempts)
            of_round = [("reward_model", number), ("reward_audit", number)]
            attempts += [("feedback", number), ("data", num_data), *of_round]
        attempts.append(("policy", number))
    stages = [stage for stage, _ in attempts]
    names = [
        round_name(number, stage) if stage in stages[place + 1 :] else stage
        for place, (stage, number) in enumerate(attempts)
    ]
    return [*names, *(stage.name for stage in pipeline_stages() if stage.name not in stages)]


def is_round(name: str) -> bool:
    """Whether a name is one of `round_name`."""
    return "." in name


def stage_name(name: str) -> str:
    """The name of the stage that a round is an attempt at; of a stage its own."""
    return name.partition(".")[0]


def title_of(name: str) -> str:
    """The title of a stage or round; of a stage that this version does not know, its name."""
    stage, _, number = name.partition(".")
    title = STAGES[stage].title if stage in STAGES else stage
    return f"{title}, round {number}" if number else title


def in_order(names: Iterable[str]) -> list[str]:
    """Names of stages and rounds in the order in which they run, without stages that this version does not know."""
    order = list(STAGES)
    known = [name for name in names if stage_name(name) in STAGES]
    # A policy is the last of its rounds.
    return sorted(known, key=lambda name: (order.index(stage_name(name)), float(name.partition(".")[2] or "inf")))


def stage_of(kind: type[Reference]) -> StageSpec:
    """The stage whose output is of this kind."""
    return next(stage for stage in STAGES.values() if stage.output is kind)


def _check_repeatable(name: str) -> str:
    if name not in repeatable_stages():
        raise ValueError(f"got {name!r}, expected one of {', '.join(repeatable_stages())}")
    return name


RepeatableStage = Annotated[
    str, AfterValidator(_check_repeatable), Field(json_schema_extra={"enum": [*repeatable_stages()]})
]
"""The name of a stage that can be made again alone; a form offers them."""

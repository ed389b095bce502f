"""A plan of a run: the stages that an earlier run has made, and what the others cost."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.config.pipeline import PipelineConfig
from rlhf.modeling.hub import at_commits
from rlhf.modeling.template_choice import settled
from rlhf.paths import root
from rlhf.references import DatasetRef, ModelCardRef
from rlhf.stages import STAGES, StageSpec, pipeline_stages
from rlhf.tracking.records import Condition, RunRecord, RunStore
from rlhf.tracking.runs import parameters
from rlhf.tracking.tags import STAGE_TAG
from rlhf.workspace import newest_step
from tasks.stage import NotMadeError, planning
from tasks.stages import STAGE_TASKS, Outputs

_SHOWN_DIFFERENCES = 3
_STEPS: Mapping[str, Sequence[str]] = {
    "sft": ("config.num_epochs",),
    "reward_model": ("config.num_epochs",),
    "policy": ("config.num_updates", "config.rollout_size"),
}
"""The settings that a stage's time is proportional to, as its run in MLflow names them."""
_OF_MODEL = ("setup.model.", "setup.compute.")
"""Another model, or another machine's settings, takes another time."""


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a run that is to come.

    Attributes:
        name: of the stage.
        title: for people.
        cached: an earlier run has made it.
        why: why it is to be computed; empty where it is cached.
        seconds: that it will take, by the newest run that computed the stage; None where none has.
    """

    name: str
    title: str
    cached: bool
    why: str
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """A plan of a run.

    Attributes:
        stages: in their order, without the model card.
        data: the prepared data, where it is made.
    """

    stages: tuple[PlannedStage, ...]
    data: DatasetRef | None

    @property
    def seconds(self) -> float:
        """Of the stages that are to be computed, as far as that is known."""
        return sum(stage.seconds or 0.0 for stage in self.stages if not stage.cached)

    @property
    def unknown(self) -> list[str]:
        """Titles of stages that are to be computed, and that no run has computed so far."""
        return [stage.title for stage in self.stages if not stage.cached and stage.seconds is None]


def plan_run(config: PipelineConfig, store: RunStore | None, *, verified: bool = True) -> Plan:
    """What a run of a recipe would find, and what it would compute. Nothing is computed or written.

    Args:
        config: the recipe.
        store: where runs are; None where nothing was run yet.
        verified: whether the files of outputs that were made are read.

    Raises:
        DataError: the data is not what the recipe says.
        ArtifactMismatchError: an output that the run would use is not what was stored.
    """
    config = settled(at_commits(config))
    made = Outputs()
    specs = [spec for spec in pipeline_stages() if spec.output is not ModelCardRef]
    with planning(verified=verified):
        stages = tuple(_plan_stage(spec, config, made, store) for spec in specs)
    return Plan(stages, made.get(DatasetRef))


def _plan_stage(spec: StageSpec, config: PipelineConfig, made: Outputs, store: RunStore | None) -> PlannedStage:
    settings: Mapping[str, Any] = {}
    newest = next(iter(store.search(_finished(spec.name), 1)), None) if store is not None else None
    missing = [STAGES[name].title for name in spec.inputs if STAGES[name].output not in made]
    if missing:
        why = f"behind {missing[0]}"
    elif spec.output is DatasetRef and config.data.embedded is None and not (root() / config.data.path).exists():
        why = f"{config.data.path} is not here yet"
    elif store is None:
        why = "nothing was run yet"
    else:
        try:
            made.add(STAGE_TASKS[spec.name](config, made))
        except NotMadeError as error:
            settings = parameters(error.settings)
            step = newest_step(error.folder)
            begun = f", goes on from step {step}" if step is not None else ""
            why = _reason(spec.name, newest, settings) + begun
        else:
            return PlannedStage(spec.name, spec.title, True, "", None)
    return PlannedStage(spec.name, spec.title, False, why, _estimate(spec, newest, settings or _of(spec, config)))


def _finished(stage: str) -> list[Condition]:
    return [Condition("tag", STAGE_TAG, "=", stage), Condition("attribute", "status", "=", "FINISHED")]


def _reason(stage: str, newest: RunRecord | None, settings: Mapping[str, str]) -> str:
    """What differs from the newest run of the stage."""
    if newest is None:
        return "never computed here"
    differing = list(_differences(stage, newest.params, settings))
    if not differing:
        return "its code, its data or a stage before it has changed"
    more = len(differing) - _SHOWN_DIFFERENCES
    return "; ".join(differing[:_SHOWN_DIFFERENCES]) + (f"; {more} more settings" if more > 0 else "")


def _differences(stage: str, then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(then.keys() | now.keys()):
        before, after = (settings.get(name, "null") for settings in (then, now))
        if before != after:
            shown = re.sub("^config\\.", f"{stage}.", name).removeprefix("setup.")
            yield f"{shown} was {before}, is {after}".replace("null", "none")


def _of(spec: StageSpec, config: PipelineConfig) -> Mapping[str, str]:
    """The settings of a stage that was not asked."""
    section = getattr(config, spec.name, None)  # not every stage has settings of its own
    settings = {} if section is None else {"config": section.model_dump(mode="json")}
    return parameters(settings | {"setup": config.setup.model_dump(mode="json")})


def _estimate(spec: StageSpec, newest: RunRecord | None, settings: Mapping[str, str]) -> float | None:
    if newest is None or f"{spec.name}/trained_seconds" not in newest.metrics:
        return None
    if any(newest.params.get(name) != value for name, value in settings.items() if name.startswith(_OF_MODEL)):
        return None
    seconds = newest.metrics[f"{spec.name}/trained_seconds"]
    for name in _STEPS.get(spec.name, ()):
        if name in settings and float(newest.params.get(name, 0)) > 0:
            seconds *= float(settings[name]) / float(newest.params[name])
    return seconds

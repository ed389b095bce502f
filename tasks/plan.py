"""A plan of a run: the stages that an earlier run has made, and what the others cost."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from pydantic import ValidationError

from rlhf.config.flat import nested
from rlhf.config.pipeline import METHOD_SECTIONS, PipelineConfig
from rlhf.errors import RLHFError
from rlhf.modeling.hub import at_commits
from rlhf.modeling.template_choice import settled
from rlhf.paths import root
from rlhf.planning.duration import duration
from rlhf.planning.memory import peak_memory
from rlhf.planning.shape import ModelShape, Workload, shape_of
from rlhf.provenance import hardware
from rlhf.references import DatasetRef, ModelCardRef, PolicyRef
from rlhf.stages import STAGES, StageSpec, attempt_names, stage_name, stage_of, title_of
from rlhf.tracking.artifacts import local_path
from rlhf.tracking.records import Condition, RunRecord, RunStore
from rlhf.tracking.runs import parameters
from rlhf.tracking.tags import MACHINE_TAG, STAGE_TAG
from rlhf.workspace import newest_step
from tasks.stage import NotMadeError, planning
from tasks.stages import STAGE_TASKS, Outputs, attempts_of, stages_of

_SHOWN_DIFFERENCES = 3
_ROWS = {
    "demonstrations": "data/num_demonstrations_train",
    "preferences": "data/num_preferences_train",
    "selection_preferences": "data/num_preferences_selection",
    "test_preferences": "data/num_preferences_test",
    "validation_prompts": "data/num_prompts_validation",
    "test_prompts": "data/num_prompts_test",
}
"""Numbers of a workload, by the metrics of the data stage."""
_LOOKED_AT = 20
"""The newest runs of a stage among which one of the same model is looked for."""


@dataclass(frozen=True)
class PlannedStage:
    """An attempt at a stage of a run that is to come.

    Attributes:
        name: of the stage, or of the round.
        title: for people.
        cached: an earlier run has made it.
        why: why it is to be computed; empty where it is cached.
        seconds: that it will take; None where it cannot be said.
        memory_mb: MB that it will hold at its peak, of the device that computes; None where it cannot be said.
        measured: both follow from an earlier run of the stage on this machine, and not from the model of cost alone.
    """

    name: str
    title: str
    cached: bool
    why: str
    seconds: float | None = None
    memory_mb: float | None = None
    measured: bool = False


@dataclass(frozen=True)
class Plan:
    """A plan of a run.

    Attributes:
        stages: in their order, without the model card.
        data: the prepared data, where it is made.
        cost: what memory and time follow from; None where the base or the data is not here yet.
    """

    stages: tuple[PlannedStage, ...]
    data: DatasetRef | None
    cost: "Cost | None" = None

    @property
    def seconds(self) -> float:
        """Of the stages that are to be computed, as far as that is known."""
        return sum(stage.seconds or 0.0 for stage in self.stages if not stage.cached)

    @property
    def unknown(self) -> list[str]:
        """Titles of stages that are to be computed, and whose time cannot be said."""
        return [stage.title for stage in self.stages if not stage.cached and stage.seconds is None]

    @property
    def memory_mb(self) -> float | None:
        """MB of the stage that will hold the most."""
        return None if self.largest is None else self.largest.memory_mb

    @property
    def largest(self) -> PlannedStage | None:
        """The stage that will hold the most memory; None where nothing is computed, or it cannot be said."""
        known = [stage for stage in self.stages if stage.memory_mb is not None]
        return max(known, key=lambda stage: stage.memory_mb or 0.0, default=None)


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
    made = Outputs(attempt_names(config))
    calls = [(spec, names) for spec, names in attempts_of(config) if spec.output is not ModelCardRef]
    with planning(verified=verified):
        stages = [stage for spec, names in calls for stage in _plan_call(spec, names, config, made, store)]
    if all(stage.cached for stage in stages):
        return Plan(tuple(stages), made.get(DatasetRef))
    cost = _cost(config, made.get(DatasetRef))
    return Plan(tuple(_with_costs(stage, config, cost, store) for stage in stages), made.get(DatasetRef), cost)


def _plan_call(
    spec: StageSpec, names: Sequence[str], config: PipelineConfig, made: Outputs, store: RunStore | None
) -> list[PlannedStage]:
    """The attempts that the call of a stage makes: those that are made, the first that is not, and those behind it."""
    called = {stage.name for stage in stages_of(config)}
    missing = [STAGES[name].title for name in spec.inputs if name in called and STAGES[name].output not in made]
    first, why = names[0], ""
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
            first, why = error.name, _why(error, config, store)
        else:
            return [PlannedStage(name, title_of(name), True, "") for name in names]
    begin = names.index(first)
    return [
        *(PlannedStage(name, title_of(name), True, "") for name in names[:begin]),
        PlannedStage(first, title_of(first), False, why),
        *(PlannedStage(name, title_of(name), False, f"behind {title_of(first)}") for name in names[begin + 1 :]),
    ]


def _why(error: NotMadeError, config: PipelineConfig, store: RunStore) -> str:
    """Why a stage is not made: what differs from its newest run, and the step that it goes on from."""
    stage = stage_name(error.name)
    step = newest_step(error.folder)
    begun = f", goes on from step {step}" if step is not None else ""
    newest = next(iter(store.search(_finished(stage), 1)), None)
    section = config.section if STAGES[stage].output is PolicyRef else stage
    return _reason(section, newest, parameters(error.settings)) + begun


def _finished(stage: str) -> list[Condition]:
    return [Condition("tag", STAGE_TAG, "=", stage), Condition("attribute", "status", "=", "FINISHED")]


def _reason(section: str, newest: RunRecord | None, settings: Mapping[str, str]) -> str:
    """What differs from the newest run of the stage, whose settings are a section of the recipe."""
    if newest is None:
        return "never computed here"
    differing = list(_differences(section, newest.params, settings))
    if not differing:
        return "its code, its data or a stage before it has changed"
    more = len(differing) - _SHOWN_DIFFERENCES
    return "; ".join(differing[:_SHOWN_DIFFERENCES]) + (f"; {more} more settings" if more > 0 else "")


def _differences(section: str, then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(then.keys() | now.keys()):
        before, after = (settings.get(name, "null") for settings in (then, now))
        if before != after:
            shown = re.sub("^config\\.", f"{section}.", name).removeprefix("setup.")
            yield f"{shown} was {before}, is {after}".replace("null", "none")


@dataclass(frozen=True)
class Cost:
    """What memory and time follow from, by `rlhf.planning`.

    Attributes:
        config: the recipe.
        shape: of the model that it starts from.
        work: its data.
    """

    config: PipelineConfig
    shape: ModelShape
    work: Workload

    def of(self, stage: str) -> tuple[float, float] | None:
        """Seconds and MB of a stage by the model of cost; None of a stage that it does not know."""
        seconds = duration(self.config, self.shape, self.work)
        if stage not in seconds:
            return None
        return seconds[stage], sum(peak_memory(self.config, self.shape, self.work)[stage].values()) / 1e6


def _cost(config: PipelineConfig, data: DatasetRef | None) -> Cost | None:
    """What is wrong with base or data is left to the run, which tells it as well."""
    # A run whose stages are all cached imports no transformers.
    from rlhf.modeling.tokenizer import load_tokenizer
    from rlhf.planning.workload import expected_workload, prepared_workload, survey_before

    with suppress(RLHFError, OSError):
        if data is not None:
            folder = local_path(data)
            tokenizer = load_tokenizer(folder / "tokenizer")
            work, vocab_size = prepared_workload(folder, tokenizer), len(tokenizer)
        elif (found := survey_before(config)) is not None:
            work, vocab_size = expected_workload(found[0], config), found[1]
        else:
            return None
        shape = shape_of(config.model, vocab_size)
        return None if shape is None else Cost(config, shape, work)
    return None


def _with_costs(stage: PlannedStage, config: PipelineConfig, cost: Cost | None, store: RunStore | None) -> PlannedStage:
    """The model's figures; of a stage that was computed here before that run's, changed as the model's change."""
    if stage.cached:
        return stage
    name, config = stage_name(stage.name), _recipe_of(stage.name, config)
    cost = None if cost is None else replace(cost, config=config, work=_work_of(stage.name, config, cost.work))
    expected = cost.of(name) if cost is not None else None
    held = "peak_device_memory_mb" if config.compute.device == "cuda" else "peak_memory_mb"
    for run in _earlier(name, config, store):
        seconds, memory = (run.metrics.get(f"{name}/{metric}") for metric in ("trained_seconds", held))
        before = _expected_then(run, name, cost, store) if cost is not None else None
        if seconds is None or (before is None and _of_model(run.params) != _of_model(_setup(config))):
            continue
        if expected is None or before is None:
            more = _num_pairs(name, config) / float(run.params.get("config.num_pairs", _num_pairs(name, config)))
            return replace(stage, seconds=seconds * more, memory_mb=memory, measured=True)
        memory = expected[1] if memory is None else memory + expected[1] - before[1]
        return replace(stage, seconds=seconds * expected[0] / before[0], memory_mb=memory, measured=True)
    return stage if expected is None else replace(stage, seconds=expected[0], memory_mb=expected[1])


def _recipe_of(name: str, config: PipelineConfig) -> PipelineConfig:
    """The recipe as an attempt sees it: a policy or its feedback that of its round, all others the whole."""
    stage, _, number = name.partition(".")
    return config.per_round[int(number) - 1 if number else -1] if stage in ("policy", "feedback") else config


def _num_pairs(stage: str, config: PipelineConfig) -> int:
    """Comparisons that a feedback stage asks; 1 of all other stages."""
    return config.feedback.num_pairs if stage == "feedback" and config.feedback is not None else 1


def _work_of(name: str, config: PipelineConfig, work: Workload) -> Workload:
    """The data of an attempt at the reward models, or their audit, with what the rounds so far have collected."""
    stage, _, number = name.partition(".")
    rounds = config.per_round
    asked = [choice.feedback for choice in rounds[: int(number or len(rounds))] if choice.feedback is not None]
    if stage not in ("reward_model", "reward_audit") or not asked:
        return work
    data, pairs = config.data, sum(feedback.num_pairs for feedback in asked)
    learned = pairs * (1 - data.test_fraction - data.validation_fraction)
    more = {
        "preferences": learned * (1 - data.selection_fraction),
        "selection_preferences": learned * data.selection_fraction,
        "test_preferences": pairs * data.test_fraction * (1 - data.gate_fraction),
    }
    given = 1 if asked[-1].given_preferences == "used" else 0
    return replace(work, **{name: round(given * getattr(work, name) + rows) for name, rows in more.items()})


def _earlier(stage: str, config: PipelineConfig, store: RunStore | None) -> list[RunRecord]:
    """Runs that computed a stage on this machine, those of the same model first, and the newest of them."""
    runs = [] if store is None else store.search(_finished(stage), _LOOKED_AT)
    here = [run for run in runs if run.tags.get(MACHINE_TAG, hardware()) == hardware()]
    return sorted(here, key=lambda run: _of_model(run.params) != _of_model(_setup(config)))


def _setup(config: PipelineConfig) -> dict[str, str]:
    return parameters({"setup": config.setup.model_dump(mode="json")})


def _of_model(settings: Mapping[str, str]) -> dict[str, str]:
    """Model and compute settings, without the length, whose effect on time is known."""
    return {
        name.removeprefix("setup."): value
        for name, value in settings.items()
        if name.removeprefix("setup.").startswith(("model.", "compute.")) and not name.endswith("model.max_length")
    }


def _expected_then(run: RunRecord, stage: str, cost: Cost, store: RunStore | None) -> tuple[float, float] | None:
    """What the model of cost says of an earlier run of a stage; None where its recipe cannot be told any more."""
    then = nested(run.params)
    settings = cost.config.model_dump(mode="json")
    if stage == stage_of(PolicyRef).name:
        method = str(then.get("method", cost.config.method))
        settings |= dict.fromkeys(METHOD_SECTIONS.values()) | {"method": method, "rounds": [], "start": "sft"}
        settings[METHOD_SECTIONS.get(method, cost.config.section)] = then.get("config")
    else:
        settings[stage] = then.get("config")
    settings |= {name: value for name, value in (then.get("setup") or then).items() if name in ("model", "compute")}
    if "max_response_tokens" in then:
        section = cost.config.section
        settings[section] = settings[section] | {"max_response_tokens": then["max_response_tokens"]}
    with suppress(ValidationError, RLHFError, OSError):
        config = PipelineConfig.model_validate(settings)
        shape = shape_of(config.model, cost.shape.vocab_size)
        return None if shape is None else Cost(config, shape, _work_then(run, cost.work, store)).of(stage)
    return None


def _work_then(run: RunRecord, work: Workload, store: RunStore | None) -> Workload:
    """The data of an earlier run: its rows, and the lengths of today's."""
    made_by = [source.made_by for source in run.inputs.values() if source.made_by is not None]
    runs = store.runs(made_by) if store is not None and made_by else {}
    metrics = {name: value for made in (run, *runs.values()) for name, value in made.metrics.items()}
    rows = {name: int(metrics[metric]) for name, metric in _ROWS.items() if metric in metrics}
    return replace(work, **rows)

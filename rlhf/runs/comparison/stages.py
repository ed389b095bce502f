"""The stages that two runs share, and why the others are not the same."""

from collections.abc import Iterator
from dataclasses import dataclass

from rlhf.config.pipeline import METHOD_SECTIONS
from rlhf.references import ModelCardRef, PolicyRef
from rlhf.runs.comparison.code import CodeDifference
from rlhf.runs.comparison.run_view import RunView
from rlhf.stages import pipeline_stages, stage_of
from rlhf.tracking.records import RunRecord
from rlhf.tracking.tags import FINGERPRINT_TAG, LOCK_TAG

_ENVIRONMENT = {
    LOCK_TAG: "lock file",
    "rlhf.python": "Python",
    "rlhf.cpu": "processor",
    "rlhf.cpu_instructions": "processor's instructions",
    "rlhf.gpus": "GPUs",
}
# They say where something is, or that a check was waived; the fingerprint does not see them.
_NOT_DECISIVE = ("path", "allow_dirty_data")


@dataclass(frozen=True)
class StageDifference:
    """A stage of two runs.

    Attributes:
        stage: its name.
        same: both have the same fingerprint; None where one has not come so far.
        trained_once: both use the output of one training.
        reasons: inputs that made the fingerprints differ.
        same_output: what they made is the same to the last bit, whatever the fingerprints.
        seconds: what the training took in each.
    """

    stage: str
    same: bool | None
    trained_once: bool
    reasons: tuple[str, ...]
    same_output: bool
    seconds: tuple[float | None, float | None]


def compare_stages(first: RunView, second: RunView, code: CodeDifference) -> list[StageDifference]:
    """Compare the stages of two runs, in their order."""
    names = [stage.name for stage in pipeline_stages()]
    return [_compare(name, first, second, code) for name in names if name in first.stages or name in second.stages]


def _compare(stage: str, first: RunView, second: RunView, code: CodeDifference) -> StageDifference:
    both = stage in first.stages and stage in second.stages
    fingerprints = [side.tags.get(f"{FINGERPRINT_TAG}.{stage}") for side in (first, second)]
    same = fingerprints[0] == fingerprints[1] if both else None
    return StageDifference(
        stage=stage,
        same=same,
        trained_once=both and first.stages[stage].run_id == second.stages[stage].run_id,
        reasons=tuple(_reasons(stage, first, second, code)) if same is False else (),
        same_output=both and first.made(stage) is not None and first.made(stage) == second.made(stage),
        seconds=tuple(  # type: ignore[arg-type]
            side.stages[stage].metrics.get(f"{stage}/trained_seconds") if stage in side.stages else None
            for side in (first, second)
        ),
    )


def _reasons(stage: str, first: RunView, second: RunView, code: CodeDifference) -> Iterator[str]:
    a, b = first.stages[stage], second.stages[stage]
    read = [{name: value.digest for name, value in run.inputs.items()} for run in (a, b)]
    inputs = sorted(name for name in {*a.inputs, *b.inputs} if read[0].get(name) != read[1].get(name))
    if inputs:
        yield f"input {', '.join(inputs)}"
    settings = [
        _setting(_section(stage, b), name)
        for name in dict.fromkeys((*a.params, *b.params))
        if a.params.get(name) != b.params.get(name) and name.rpartition(".")[2] not in _NOT_DECISIVE
    ]
    yield from settings
    others = [what for tag, what in _ENVIRONMENT.items() if first.tags.get(tag) != second.tags.get(tag)]
    yield from others
    if not code.is_same:
        yield _code(code, certain=not (inputs or settings or others))


def _section(stage: str, run: RunRecord) -> str:
    """The section of a recipe that a stage's settings are in; empty where it has the whole recipe."""
    if stage == stage_of(ModelCardRef).name:
        return ""
    return METHOD_SECTIONS.get(run.params.get("method", "ppo"), stage) if stage == stage_of(PolicyRef).name else stage


def _setting(own: str, name: str) -> str:
    """As the recipe has it: a stage's run calls its own section `config`, and what all stages share `setup`."""
    section, _, rest = name.partition(".")
    if section == "config":
        return f"{own}.{rest}".removeprefix(".")
    return rest if section == "setup" else name


def _code(code: CodeDifference, *, certain: bool) -> str:
    """Which sources a stage reaches is not recorded, so beside other reasons the code is a guess."""
    files = f" ({code.num_source_files} files of rlhf/ and tasks/)" if code.num_source_files else ""
    return f"{'code' if certain else 'perhaps code'}{files}"

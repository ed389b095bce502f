"""The comparison of pipeline runs: each of the others against the first."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlhf.errors import InputError
from rlhf.metrics import METRICS
from rlhf.paths import root, source_root
from rlhf.runs.comparison.code import CodeDifference, compare_code
from rlhf.runs.comparison.data import DataDifference, compare_data
from rlhf.runs.comparison.metrics import Result, compare_results, seed_note
from rlhf.runs.comparison.run_view import LABELS, RunView, read_sides
from rlhf.runs.comparison.stages import StageDifference, compare_stages
from rlhf.tracking.records import RunStore
from rlhf.tracking.run_ids import find_in
from rlhf.tracking.tags import ALARMS_TAG, LIBRARY_VERSION, REPRODUCIBLE_TAG
from rlhf.tracking.versions import policy_version

CURVES = tuple(name for name, metric in METRICS.items() if metric.curve)
_MACHINE = ("python", "platform", "cpu", "cpu_instructions", "cpu_count", "gpus", "lock_sha256")
_COMPUTE = "compute."


@dataclass(frozen=True)
class Pair:
    """The first run and another one.

    Attributes:
        first: label of the first.
        second: label of the other.
        code: commits and patches between the two.
        data: versions of the data.
        results: metrics, with their differences.
        stages: which are the same.
    """

    first: str
    second: str
    code: CodeDifference
    data: DataDifference
    results: Sequence[Result]
    stages: Sequence[StageDifference]


@dataclass(frozen=True)
class Comparison:
    """The differences between runs.

    Attributes:
        sides: the runs.
        settings: those that differ, by dotted name, a value for each run; None where it has no such setting.
        environment: the same of what the runs ran in.
        pairs: each of the others against the first.
        seed_note: what the intervals do not cover.
    """

    sides: Sequence[RunView]
    settings: Mapping[str, tuple[str | None, ...]]
    environment: Mapping[str, tuple[str | None, ...]]
    pairs: Sequence[Pair]
    seed_note: str

    @property
    def title(self) -> str:
        """The report's headline."""
        return f"Comparison of {' and '.join(side.short_id for side in self.sides)}"

    @property
    def folder(self) -> str:
        """The folder in which it is kept among the artifacts of the first run."""
        return f"comparisons/{'-'.join(side.short_id for side in self.sides)}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "runs": {side.label: _facts(side) for side in self.sides},
            "settings": {name: list(values) for name, values in self.settings.items()},
            "environment": {name: list(values) for name, values in self.environment.items()},
            "pairs": [asdict(pair) for pair in self.pairs],
            "note": self.seed_note,
        }


def compare_runs(store: RunStore, named: Sequence[str]) -> Comparison:
    """Compare pipeline runs.

    Args:
        store: where they are.
        named: two to six, as `rlhf.tracking.run_ids.find_in` takes them.

    Raises:
        InputError: one of them is not there, or the same was named twice.
    """
    if not 2 <= len(named) <= len(LABELS):
        raise InputError(f"{len(named)} runs were given; a comparison takes 2 to {len(LABELS)}")
    ids = [find_in(store, text) for text in named]
    for text, run_id in zip(named, ids, strict=True):
        if ids.count(run_id) > 1:
            raise InputError(f"{text} is run {run_id}, which is named twice; name another one")
    sides = read_sides(store, ids, CURVES)
    first = sides[0]
    return Comparison(
        sides=sides,
        settings=_differing([_settings(side) for side in sides]),
        environment=_differing([environment(side) for side in sides]),
        pairs=[_compare(first, other) for other in sides[1:]],
        seed_note=seed_note(sides),
    )


def _compare(first: RunView, second: RunView) -> Pair:
    code = compare_code(first, second, source_root())
    return Pair(
        first=first.label,
        second=second.label,
        code=code,
        data=compare_data(first, second, root()),
        results=compare_results(first, second),
        stages=compare_stages(first, second, code),
    )


def environment(side: RunView) -> dict[str, str]:
    """The environment that a run ran in: interpreter, libraries, processor, and how they were used."""
    tags = {name: side.tags[f"rlhf.{name}"] for name in _MACHINE if f"rlhf.{name}" in side.tags}
    versions = {
        tag.removeprefix(LIBRARY_VERSION): value for tag, value in side.tags.items() if tag.startswith(LIBRARY_VERSION)
    }
    compute = {name: value for name, value in side.settings.items() if name.startswith(_COMPUTE)}
    return tags | versions | compute


def _settings(side: RunView) -> dict[str, str]:
    return {name: value for name, value in side.settings.items() if not name.startswith(_COMPUTE)}


def _differing(values: Sequence[Mapping[str, str]]) -> dict[str, tuple[str | None, ...]]:
    names = dict.fromkeys(name for settings in values for name in settings)
    compared = {name: tuple(settings.get(name) for settings in values) for name in names}
    return {name: texts for name, texts in compared.items() if len(set(texts)) > 1}


def _facts(side: RunView) -> dict[str, Any]:
    return {
        "run_id": side.run.run_id,
        "name": side.run.name,
        "started": started_at(side),
        "state": side.run.status,
        "policy_version": policy_version(side.tags),
        "aliases": list(side.aliases),
        "reproducible": side.tags.get(REPRODUCIBLE_TAG) == "true",
        "alarms": list(filter(None, side.tags.get(ALARMS_TAG, "").split(","))),
    }


def started_at(side: RunView) -> str:
    """When a run began, for people."""
    return f"{side.run.started:%Y-%m-%d %H:%M} UTC"

"""Runs as people look them up: a few of them, and at once.

Two stores answer: `rlhf.tracking.sqlite_store`, the project's SQLite file, in milliseconds and without MLflow, which
takes over two seconds to import and to open; and `rlhf.tracking.queries`, MLflow's client, for servers and other
databases.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal, Protocol

from rlhf.earlier_names import earlier_stage, metric_names
from rlhf.paths import in_other_project, tracking_database
from rlhf.tracking.tags import KIND_TAG, STAGE_TAG

PIPELINE = "pipeline"
GROUP = "group"
METHODS = "methods"
FEEDBACK = "feedback"
POLICY = "policy"
Kind = Literal["attribute", "tag", "metric"]
Comparator = Literal["=", "!=", ">", ">=", "<", "<=", "LIKE"]

_INFINITY = sys.float_info.max
"""What MLflow stores in its place."""


def is_finite(value: float) -> bool:
    """Whether a metric's stored value is a number."""
    return abs(value) < _INFINITY


@dataclass(frozen=True)
class Condition:
    """A condition on a run.

    Attributes:
        kind: where the name stands.
        name: `run_id`, `status` or `start_time` of the attributes; a tag; a metric, whose last value counts.
        comparator: tags and ids know =, != and LIKE only.
        value: text for tags, ids and states, otherwise a number; without quotation marks.
    """

    kind: Kind
    name: str
    comparator: Comparator
    value: str | float

    @property
    def recorded(self) -> list["Condition"]:
        """This condition, and the same by the names of earlier releases."""
        if self.kind == "metric":
            return [replace(self, name=name) for name in metric_names(self.name)]
        if self.kind == "tag" and self.name == STAGE_TAG and earlier_stage(str(self.value)) != self.value:
            return [self, replace(self, value=earlier_stage(str(self.value)))]
        return [self]

    @property
    def as_filter(self) -> str:
        """As MLflow's client takes it."""
        place = {
            "attribute": f"attributes.{self.name}",
            "tag": f"tags.`{self.name}`",
            "metric": f"metrics.`{self.name}`",
        }
        value = f"'{self.value}'" if isinstance(self.value, str) else repr(self.value)
        return f"{place[self.kind]} {self.comparator} {value}"


IS_PIPELINE = Condition("tag", KIND_TAG, "=", PIPELINE)
IS_GROUP = Condition("tag", KIND_TAG, "=", GROUP)


@dataclass(frozen=True)
class Input:
    """An input that a run has read.

    Attributes:
        uri: `runs:/RUN_ID/output` for what a stage made; otherwise a path.
        digest: the first characters of its hash, 36 at most.
    """

    uri: str
    digest: str

    @classmethod
    def from_dataset(cls, source: str, digest: str) -> "Input":
        """From a data set of MLflow's, whose source is JSON."""
        return cls(json.loads(source).get("uri", ""), digest)

    @property
    def made_by(self) -> str | None:
        """The run whose output it is."""
        return self.uri.split("/")[1] if self.uri.startswith("runs:/") else None


@dataclass(frozen=True)
class RunRecord:
    """A run, as the store has it.

    Attributes:
        run_id: its id.
        name: its name.
        status: RUNNING, SCHEDULED, FINISHED, FAILED or KILLED.
        started: when it began.
        ended: when it ended; None while it is under way.
        artifact_uri: where its artifacts are, as MLflow has it; see `rlhf.tracking.locations`.
        tags: by their names.
        params: by their names.
        metrics: the last value of each, where it is finite.
        not_finite: names of the other metrics.
        inputs: the data sets and artifacts that it reads, by their names.
    """

    run_id: str
    name: str
    status: str
    started: datetime
    ended: datetime | None
    artifact_uri: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    not_finite: frozenset[str] = frozenset()
    inputs: Mapping[str, Input] = field(default_factory=dict)

    @property
    def is_pipeline(self) -> bool:
        """Whether it is the run of a whole pipeline."""
        return self.tags.get(KIND_TAG) == PIPELINE

    @property
    def is_group(self) -> bool:
        """Whether it sums up the runs of several seeds."""
        return self.tags.get(KIND_TAG) == GROUP


class RunStore(Protocol):
    """A store of runs."""

    def search(self, conditions: Sequence[Condition], limit: int) -> list[RunRecord]:
        """The runs that meet all conditions, the newest first."""

    def count(self, conditions: Sequence[Condition]) -> int:
        """The number of runs that meet all conditions."""

    def runs(self, run_ids: Sequence[str]) -> dict[str, RunRecord]:
        """The runs with these ids, by id; ids without a run are left out."""

    def deleted(self, prefix: str) -> list[str]:
        """Ids of deleted runs that begin so."""

    def curves(self, run_id: str, names: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
        """Steps and finite values of metrics of a run, by rising step; without the metrics that it has not."""

    def policies(self) -> list[str]:
        """The registered models that policies are versions of."""

    def aliases(self) -> dict[str, str]:
        """Versions of those models, by `MODEL@ALIAS`; people's aliases are `rlhf.tracking.versions.aliases`."""

    def version_run(self, version: str) -> str | None:
        """The run that made a version; None where there is no such version."""


def time_of(milliseconds: int) -> datetime:
    """MLflow's time, which counts from 1970."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def store_address() -> str:
    """The address of this project's store of runs: MLFLOW_TRACKING_URI, else the SQLite file of the project."""
    own = f"sqlite:///{tracking_database()}"
    return own if in_other_project() else os.environ.get("MLFLOW_TRACKING_URI") or own


def is_server(uri: str) -> bool:
    """Whether a store is behind a server."""
    return uri.startswith(("http://", "https://"))

"""Whole runs and versions as they stand in the store, for those who check them or clear up after them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow.entities import Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.entities import PagedList

from rlhf.tracking.client import client, experiment_id, retry_while_unavailable
from rlhf.tracking.models import REGISTERED_MODEL
from rlhf.tracking.queries import find

_PAGE = 1000


@dataclass(frozen=True)
class Input:
    """What a stage's run has read.

    Attributes:
        name: of the stage's argument.
        uri: `runs:/RUN_ID/output`.
        digest: the first characters of its sha256.
    """

    name: str
    uri: str
    digest: str


@dataclass(frozen=True)
class RunFacts:
    """All that a run says of itself, but for the course of its metrics.

    Attributes:
        run_id: its id.
        name: of a stage's run the stage.
        status: RUNNING, SCHEDULED, FINISHED, FAILED or KILLED.
        started: when it began.
        ended: when it ended; None where it has not.
        tags: all of them.
        params: all of them.
        metrics: their last values.
        inputs: artifacts of other runs that it has read.
        artifact_uri: where its artifacts are.
    """

    run_id: str
    name: str
    status: str
    started: datetime
    ended: datetime | None
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    inputs: tuple[Input, ...]
    artifact_uri: str


@dataclass(frozen=True)
class VersionFacts:
    """A version of the registered model.

    Attributes:
        version: its number.
        run_id: MLflow run that made the policy's folder.
        uri: of that folder.
        created: when it was registered.
        tags: all of them.
        aliases: such as `champion`.
    """

    version: str
    run_id: str
    uri: str
    created: datetime
    tags: Mapping[str, str]
    aliases: tuple[str, ...]


def get_run(run_id: str) -> RunFacts | None:
    """A run; None where there is none of that id, or it was deleted."""
    runs = find(f"attributes.run_id = '{run_id}'") if run_id.isalnum() else []
    return _facts(runs[0]) if runs else None


def search_runs(condition: str = "") -> list[RunFacts]:
    """All runs that meet a condition, the newest first, however many there are."""
    page = _page(condition, None)
    found = [_facts(run) for run in page]
    while page.token:
        page = _page(condition, page.token)
        found += map(_facts, page)
    return sorted(found, key=lambda run: run.started, reverse=True)


def versions() -> list[VersionFacts]:
    """All versions of the registered model, the newest first."""
    models = retry_while_unavailable(lambda: client().search_registered_models(f"name = '{REGISTERED_MODEL}'"))
    if not models:
        return []
    aliases: dict[str, list[str]] = {}
    for alias, version in models[0].aliases.items():
        aliases.setdefault(str(version), []).append(alias)
    found = retry_while_unavailable(
        lambda: client().search_model_versions(f"name = '{REGISTERED_MODEL}'", max_results=10_000)
    )
    facts = [
        VersionFacts(
            version=str(one.version),
            run_id=str(one.run_id or ""),
            uri=str(one.source or ""),
            created=_time(one.creation_timestamp),
            tags=dict(one.tags),
            aliases=tuple(sorted(aliases.get(str(one.version), ()))),
        )
        for one in found
    ]
    return sorted(facts, key=lambda one: int(one.version), reverse=True)


def delete_artifact(run_id: str, path: str) -> None:
    """Delete a file or folder of a run's artifacts, wherever the store is."""
    uri = retry_while_unavailable(lambda: client().get_run(run_id)).info.artifact_uri
    repository: Any = get_artifact_repository(uri)
    retry_while_unavailable(lambda: repository.delete_artifacts(path))


def _page(condition: str, token: str | None) -> PagedList[Run]:
    return retry_while_unavailable(
        lambda: client().search_runs([experiment_id()], condition, max_results=_PAGE, page_token=token)
    )


def _facts(run: Run) -> RunFacts:
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return RunFacts(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        status=run.info.status,
        started=_time(run.info.start_time),
        ended=_time(run.info.end_time) if run.info.end_time else None,
        tags=run.data.tags,
        params=run.data.params,
        metrics=run.data.metrics,
        inputs=tuple(
            Input(one.dataset.name, json.loads(one.dataset.source).get("uri", ""), one.dataset.digest) for one in inputs
        ),
        artifact_uri=run.info.artifact_uri,
    )


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)

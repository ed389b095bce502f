"""Whole runs and versions as they stand in the store, for checks and garbage collection."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlflow.entities import Run
from mlflow.entities.model_registry import RegisteredModel
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.entities import PagedList

from rlhf.tracking.client import client, experiment_id, retry_while_unavailable
from rlhf.tracking.models import registered_models
from rlhf.tracking.queries import find, record_of
from rlhf.tracking.records import RunRecord, time_of

_PAGE = 1000


@dataclass(frozen=True)
class VersionFacts:
    """A version of a registered policy.

    Attributes:
        version: `RECIPE/NUMBER`.
        run_id: MLflow run that made the policy's folder.
        uri: of that folder.
        created: when it was registered.
        tags: all of them.
        aliases: such as `champion`, as the registered model has them.
    """

    version: str
    run_id: str
    uri: str
    created: datetime
    tags: Mapping[str, str]
    aliases: tuple[str, ...]


def get_run(run_id: str) -> RunRecord | None:
    """A run; None where there is none of that id, or it was deleted."""
    runs = find(f"attributes.run_id = '{run_id}'") if run_id.isalnum() else []
    return record_of(runs[0]) if runs else None


def search_runs(condition: str = "") -> list[RunRecord]:
    """All runs that meet a condition, the newest first, however many there are."""
    page = _page(condition, None)
    runs = [record_of(run) for run in page]
    while page.token:
        page = _page(condition, page.token)
        runs += map(record_of, page)
    return sorted(runs, key=lambda run: run.started, reverse=True)


def versions() -> list[VersionFacts]:
    """All versions of registered policies, the newest first."""
    return sorted(
        (version for model in registered_models() for version in _versions(model)),
        key=lambda version: (version.created, version.version),
        reverse=True,
    )


def delete_artifact(run_id: str, path: str) -> None:
    """Delete a file or folder of a run's artifacts, wherever the store is."""
    uri = retry_while_unavailable(lambda: client().get_run(run_id)).info.artifact_uri
    repository: Any = get_artifact_repository(uri)
    retry_while_unavailable(lambda: repository.delete_artifacts(path))


def _versions(model: RegisteredModel) -> Iterator[VersionFacts]:
    registered = retry_while_unavailable(
        lambda: client().search_model_versions(f"name = '{model.name}'", max_results=10_000)
    )
    numbers = model.aliases.items()
    for version in registered:
        yield VersionFacts(
            version=f"{model.name}/{version.version}",
            run_id=str(version.run_id or ""),
            uri=str(version.source or ""),
            created=time_of(version.creation_timestamp),
            tags=dict(version.tags),
            aliases=tuple(sorted(alias for alias, number in numbers if str(number) == str(version.version))),
        )


def _page(condition: str, token: str | None) -> PagedList[Run]:
    return retry_while_unavailable(
        lambda: client().search_runs([experiment_id()], condition, max_results=_PAGE, page_token=token)
    )

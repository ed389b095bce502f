"""Checks that this host reaches the place of the artifacts, before anything is computed that would go there."""

import tempfile
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from rlhf.addresses import public_address
from rlhf.paths import tracking_database
from rlhf.tracking.client import (
    UnusableStoreError,
    client,
    experiment_id,
    reason,
    retry_while_unavailable,
    tracking_uri,
)
from rlhf.tracking.records import is_server
from rlhf.tracking.sqlite_store import has_known_schema, recorded_experiment


def check_location() -> None:
    """Refuse a server whose artifacts are in a folder of its host that is not seen from here.

    Raises:
        UnusableStoreError: says how the server is to be started.
    """
    if not is_server(tracking_uri()):
        return
    location = _location()
    if urlsplit(location).scheme not in ("", "file"):
        return
    own = tracking_database()
    is_own = own.is_file() and has_known_schema(own) and recorded_experiment() == location
    if not is_own:
        get_artifact_repository(location, tracking_uri())


def check_no_folder(destination: str) -> None:
    """Refuse another destination for a store whose runs have their artifacts in the project's folder.

    Raises:
        UnusableStoreError: names the store.
    """
    own = tracking_database()
    location = recorded_experiment() if own.is_file() else None
    if location is not None and urlsplit(location).scheme in ("", "file"):
        raise UnusableStoreError(
            f"--artifacts-destination {destination}: the store {own} keeps the artifacts of its runs in {location}, "
            "and MLflow cannot change that; leave the flag away, or move mlruns/ away for a store without runs"
        )


def check_artifacts() -> None:
    """Write a small artifact, read it back and delete it.

    Raises:
        UnusableStoreError: the place of the artifacts cannot be used from here, or gives back something else.
    """
    location, name, content = _location(), f"probe-{uuid.uuid4().hex}", uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="rlhf-") as scratch:
        file, copy = Path(scratch) / "written.txt", Path(scratch) / "copy"
        file.write_text(content)
        copy.mkdir()
        try:
            place: Any = get_artifact_repository(location, tracking_uri())
            place.log_artifact(str(file), name)
            read = Path(place.download_artifacts(f"{name}/{file.name}", str(copy))).read_text()
            place.delete_artifacts(name)
        except (MlflowException, requests.RequestException, OSError) as error:
            raise UnusableStoreError(
                f"the artifact store {public_address(location)} of {public_address(tracking_uri())} cannot be used "
                f"from here: {reason(error)}; look whether the server was started with --artifacts-destination, and "
                "whether it may write there"
            ) from error
    if read != content:
        raise UnusableStoreError(
            f"the artifact store {public_address(location)} gave back something else than was written to it"
        )


def _location() -> str:
    """The place in which the server's experiment keeps the artifacts of all runs."""
    return str(retry_while_unavailable(lambda: client().get_experiment(experiment_id())).artifact_location)

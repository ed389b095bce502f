"""The MLflow store of this project, and its client, which asks again while a server is away."""

import contextlib
import functools
import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_registered_artifact_repositories
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_exponential

from rlhf.addresses import ask_within, public_address
from rlhf.errors import InputError, one_line
from rlhf.files.disk import full_disk, is_full
from rlhf.files.locks import lock_of, locked
from rlhf.paths import artifacts_folder, tracking_database
from rlhf.tracking.deleted import deleted_experiment
from rlhf.tracking.locations import is_of_server, seen_from_here, through_server
from rlhf.tracking.records import is_server, store_address
from rlhf.tracking.sqlite_store import has_known_schema, open_database, recorded_location
from rlhf.tracking.store_host import check_host
from rlhf.tracking.ui_view import KEY, TAG, shared_view

logger = logging.getLogger(__name__)
EXPERIMENT = "rlhf"
HANDS_OUT = "X-RLHF-Artifacts"
"""The header by which the server of `rlhf up` says that artifacts of its project's folder are asked of it."""
PATIENCE_SECONDS = 360.0
"""`rlhf up` starts a server again that hangs, which takes two minutes; another may be down for longer."""
ANSWER_SECONDS = 6.0
"""Within which a store must answer at the start; clients would go on for minutes."""
Result = TypeVar("Result")

_FINAL = (
    *("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS"),
    # Of a server that has no such route: one without logins, or an older one.
    *("ENDPOINT_NOT_FOUND", "NOT_FOUND"),
)
_REFUSED = {"UNAUTHENTICATED": 401, "CUSTOMER_UNAUTHORIZED": 401, "PERMISSION_DENIED": 403}
_STATEMENT = " [SQL: "
_DEFAULT_UI = "http://127.0.0.1:5000"


class TrackingError(InputError):
    """The tracking store did not answer, or refused."""


class UnusableStoreError(TrackingError):
    """The tracking store cannot be used as it is. Waiting does not help."""


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else the SQLite file of the project."""
    return store_address()


def run_url(run_id: str) -> str:
    """The address of a run in MLflow's UI. Without the parameter the UI shows a page about traces."""
    base = public_address(tracking_uri()).rstrip("/") if is_server(tracking_uri()) else _DEFAULT_UI
    return f"{base}/#/experiments/{experiment_id()}/runs/{run_id}?workflowType=machine_learning"


def runs_url() -> str:
    """The address of the table of pipeline runs in MLflow's UI."""
    base = public_address(tracking_uri()).rstrip("/") if is_server(tracking_uri()) else _DEFAULT_UI
    view = f"workflowType=machine_learning&viewStateShareKey={KEY}"
    return f"{base}/#/experiments/{experiment_id()}/runs?{view}"


def prepare_store() -> None:
    """Make the project's own store and the experiment, so that a server over it keeps artifacts where runs do."""
    _experiment_of(_own_store())


def check_reachable() -> None:
    """Tell within seconds, rather than after the first stage, that the tracking store cannot be used.

    Raises:
        UnusableStoreError: it does not answer, something else answers, or the experiment was deleted.
    """
    uri = tracking_uri()
    try:
        if uri == _own_store():
            experiment_id()
        else:
            ask_within(ANSWER_SECONDS, _check_answers)
    except (MlflowException, requests.RequestException, SQLAlchemyError, TimeoutError, ImportError) as error:
        raise UnusableStoreError(_explain(error)) from error


def _check_answers() -> None:
    uri = tracking_uri()
    if is_server(uri):
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=ANSWER_SECONDS)
        if answer.text.strip() != "OK":
            raise UnusableStoreError(
                f"MLFLOW_TRACKING_URI is {public_address(uri)}, where something answers that is not MLflow (HTTP "
                f"{answer.status_code}); unset it, or name an MLflow server: `rlhf up` starts one"
            )
    experiment_id()


def client() -> MlflowClient:
    """The client of the store, for `rlhf.tracking.artifacts`."""
    return _client_of(tracking_uri())


def retry_while_unavailable(call: Callable[[], Result]) -> Result:
    """Call again while a server does not answer: it may be restarting, and training was long."""
    retrying = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_before_delay(PATIENCE_SECONDS),
        wait=wait_exponential(max=30),
        before_sleep=_warn,
        reraise=True,
    )
    try:
        return retrying(call)
    except (MlflowException, requests.RequestException) as error:
        if _refusal(error) or is_full(error):
            raise UnusableStoreError(_explain(error)) from error
        if full := full_disk(error):  # a server tells nobody that this is why it does not answer
            raise UnusableStoreError(full) from error
        raise TrackingError(_explain(error)) from error


def _may_pass(error: BaseException) -> bool:
    """Whether a call that failed may succeed later."""
    if not isinstance(error, MlflowException | requests.RequestException):
        return False
    final = getattr(error, "error_code", "") in _FINAL
    return not (final or _refusal(error) or is_full(error) or full_disk(error))


def _warn(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    assert error is not None, "a call has failed"
    logger.warning("MLflow does not answer, trying again in %.0f s: %s", state.upcoming_sleep, one_line(error))


@contextmanager
def translated() -> Iterator[None]:
    """Turn what MLflow raises into an error that says what to do."""
    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        raise TrackingError(_explain(error)) from error


def experiment_id() -> str:
    """The experiment of all runs, which is made where it is not there."""
    return _experiment_of(tracking_uri())


@functools.cache
def _client_of(uri: str) -> MlflowClient:
    open_folders_where_they_are()
    if not uri.startswith("sqlite:///"):
        return MlflowClient(uri)
    database = Path(uri.removeprefix("sqlite:///"))
    try:
        # Two processes that both migrate an empty file break it.
        with locked(lock_of(database)):
            open_database(database)
            check_host(database)
            return MlflowClient(uri)
    except (sqlite3.Error, SQLAlchemyError, MlflowException) as error:  # the last: tables of another version of MLflow
        raise UnusableStoreError(_explain(error)) from error


@functools.cache
def _experiment_of(uri: str) -> str:
    client = _client_of(uri)
    location = None if is_server(uri) else artifacts_folder().as_uri()
    # Another process may be making it at the same time.
    with contextlib.suppress(MlflowException):
        if client.get_experiment_by_name(EXPERIMENT) is None:
            client.create_experiment(EXPERIMENT, artifact_location=location)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        raise TrackingError(
            f"the MLflow store {public_address(uri)} has no experiment {EXPERIMENT}, and none could be made"
        )
    if experiment.lifecycle_stage != "active":
        raise UnusableStoreError(deleted_experiment(uri, experiment.experiment_id))
    if uri == _own_store() and urlsplit(experiment.artifact_location).scheme not in ("", "file"):
        raise UnusableStoreError(
            f"the MLflow store {uri} was made by a server that keeps its artifacts at {experiment.artifact_location}, "
            "which is no folder; start that server again and set MLFLOW_TRACKING_URI to it"
        )
    if experiment.tags.get(TAG) != shared_view():
        client.set_experiment_tag(experiment.experiment_id, TAG, shared_view())
    return str(experiment.experiment_id)


def _own_store() -> str:
    return f"sqlite:///{tracking_database()}"


class FolderOfArtifacts(LocalArtifactRepository):
    """A folder of artifacts as MLflow's client and server open it: where the project is now."""

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        uri = seen_from_here(artifact_uri, _recorded())
        super().__init__(uri, tracking_uri, registry_uri)


def open_folders_where_they_are(*, in_server: bool = False) -> None:
    """Have MLflow open folders of artifacts by `FolderOfArtifacts`. The scheme of an address chooses the class.

    Args:
        in_server: whether this is MLflow's server, whose folders are all its own.
    """
    repositories: Any = get_registered_artifact_repositories()
    repositories.update(dict.fromkeys(("", "file"), FolderOfArtifacts if in_server else _open_folder))


def _open_folder(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> ArtifactRepository:
    if not is_of_server(artifact_uri, _recorded()):
        return FolderOfArtifacts(artifact_uri, tracking_uri, registry_uri)
    store = store_address()
    proxied = through_server(artifact_uri) if _serves_its_folder(store) else None
    if proxied is None:
        raise UnusableStoreError(
            f"the MLflow store {public_address(store)} keeps its artifacts in {artifact_uri}, a folder of the server's "
            "host, so what is written from here would not be seen there; start the server by `rlhf up` of this "
            "version, or with --artifacts-destination, without --default-artifact-root and on a new store, so that it "
            "hands artifacts through (mlflow-artifacts:)"
        )
    return MlflowArtifactsRepository(proxied, store, registry_uri)


@functools.cache
def _serves_its_folder(uri: str) -> bool:
    """Whether a server is that of `rlhf up`, which hands out the artifacts of its project's folder."""
    answer = retry_while_unavailable(lambda: requests.get(f"{uri.rstrip('/')}/health", timeout=ANSWER_SECONDS))
    return HANDS_OUT in answer.headers


def _recorded() -> Callable[[str], str | None]:
    known = not tracking_database().is_file() or has_known_schema(tracking_database())
    return recorded_location if known else _location_by_client


def _location_by_client(run_id: str) -> str | None:
    """The location of artifacts as `recorded_location` gives it, from a SQLite file whose tables are not known here."""
    own = _client_of(_own_store())
    try:
        return str(own.get_experiment(own.get_run(run_id).info.experiment_id).artifact_location)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _refusal(error: Exception) -> int | None:
    """The HTTP status by which a server says who may not come in; None where it says something else."""
    if isinstance(error, MlflowException):
        return _REFUSED.get(error.error_code)
    answer = error.response if isinstance(error, requests.HTTPError) else None
    status = None if answer is None else answer.status_code
    return status if status in _REFUSED.values() else None


def _explain(error: Exception) -> str:
    where = public_address(tracking_uri())
    refusal = _refusal(error)
    if refusal is not None:
        return (
            f"the MLflow store {where} does not let you in (HTTP {refusal}); set RLHF_PASSWORD to the password that "
            "`rlhf up` was started with, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to those of your own"
        )
    if tracking_uri() == _own_store():
        hint = "look whether that file may be read and written, and is MLflow's"
    else:
        hint = "look whether it runs, set MLFLOW_TRACKING_URI to another one (http://..., sqlite:///FILE), or unset it"
    return f"the MLflow store {where} failed: {reason(error)}; {hint}"


def reason(error: Exception) -> str:
    """An error's reason: what the network said, or what the database said, without the statement."""
    if isinstance(error, DBAPIError):
        error = error.orig or error  # type: ignore[assignment]
    failed = getattr(error.args[0] if error.args else None, "reason", None)
    if isinstance(failed, Exception):
        return one_line(failed).rpartition("): ")[2]
    return one_line(error).partition(_STATEMENT)[0]

"""The store that this project's runs are in, opened for those who look at runs."""

import logging
import os

from rlhf.errors import InputError
from rlhf.paths import tracking_database
from rlhf.tracking.records import RunStore
from rlhf.tracking.run_ids import find_in
from rlhf.tracking.sqlite_store import DatabaseStore, has_known_schema

logger = logging.getLogger(__name__)


def open_store() -> RunStore:
    """The store that this project's runs are in.

    Raises:
        InputError: nothing was ever run here, or the experiment was deleted.
    """
    if os.environ.get("MLFLOW_TRACKING_URI"):
        from rlhf.tracking.queries import ClientStore

        return ClientStore()
    check_own_store()
    if has_known_schema(tracking_database()):
        return DatabaseStore(tracking_database())
    from rlhf.tracking.queries import ClientStore

    logger.warning(
        "%s: the tables are of a version of MLflow that is not known here; MLflow reads them", tracking_database()
    )
    return ClientStore()


def check_own_store() -> None:
    """Say that there are no runs, rather than make an empty store for the question.

    Raises:
        InputError: the project's SQLite file is to be asked, and is not there.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI") and not tracking_database().is_file():
        raise InputError(
            f"{tracking_database()}: there is no such store, so nothing was run in this project yet; start with "
            "`rlhf run configs/demo.yaml`, or set MLFLOW_TRACKING_URI or RLHF_ROOT to where the runs are"
        )


def find_pipeline(text: str) -> str:
    """The id of the pipeline run that a person means.

    Args:
        text: its id, or the first characters of it, at least 6; the same of a stage's run, which stands for the
            pipeline run that trained it; or a version, as `rlhf.tracking.versions.find_version` takes it.

    Raises:
        InputError: there is no such run, or several; the message names those that come nearest.
        TrackingError: the store does not answer.
    """
    from rlhf.tracking.queries import ClientStore

    check_own_store()
    return find_in(ClientStore(), text)

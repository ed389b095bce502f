"""Is the store that answers the one, and the only one, that knows what the runs of this project need?"""

from collections.abc import Sequence

from rlhf.errors import InputError
from rlhf.paths import tracking_database
from rlhf.tracking.client import tracking_uri
from rlhf.tracking.known_stores import other_stores
from rlhf.tracking.records import RunRecord
from rlhf.tracking.run_details import search_runs
from rlhf.tracking.sqlite_store import DatabaseStore, has_known_schema
from rlhf.tracking.stores import check_own_store

_ALL = 1_000_000_000
_NOTHING_GOES = "so what is needed is not known, and nothing is removed"


def runs_of_the_project() -> list[RunRecord]:
    """All runs that there are.

    Raises:
        InputError: there is no store, it knows no run, or runs of this project are in another one too.
    """
    check_own_store()  # an empty one would be made otherwise
    runs = search_runs()
    for note, address in other_stores().items():
        raise InputError(
            f"runs of this project are in another store too, noted as {address}, and {tracking_uri()} was asked, "
            f"{_NOTHING_GOES}; start `rlhf up` as it was then, or set MLFLOW_TRACKING_URI; "
            f"if nothing in that store is needed any more, delete {note}"
        )
    if not runs:
        raise InputError(
            f"the store {tracking_uri()} knows no run, {_NOTHING_GOES}; if the runs are on a server, start `rlhf up` "
            "as it was then, or set MLFLOW_TRACKING_URI"
        )
    _check_own_file(runs)
    return runs


def _check_own_file(runs: Sequence[RunRecord]) -> None:
    """Refuse where the project's SQLite file has runs that the store which was asked does not know."""
    if not tracking_database().is_file():
        return
    if not has_known_schema(tracking_database()):
        raise InputError(
            f"{tracking_database()}: its tables are of an MLflow that is not known here, {_NOTHING_GOES}; "
            "clear up by the version of rlhf that these tables are from"
        )
    known = {run.run_id for run in runs}
    unknown = [run.run_id for run in DatabaseStore(tracking_database()).search([], _ALL) if run.run_id not in known]
    # A run that has begun since is in the file, and was not in the answer.
    if unknown and not {run.run_id for run in search_runs()}.issuperset(unknown):
        raise InputError(
            f"{tracking_database()} has {len(unknown)} runs that {tracking_uri()} does not know, {_NOTHING_GOES}; "
            "unset MLFLOW_TRACKING_URI to ask the file, or move it away if nothing in it is needed any more"
        )

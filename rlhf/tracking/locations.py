"""Folders of artifacts: where they are from here, though the project was moved, copied or is mounted elsewhere.

MLflow writes the whole path of a folder into the row of each run, and the path of the project's first place stays there
(docs/adr/0019). So a path is looked up when it is used, and no row is ever changed. A folder of the host that an MLflow
server runs on is reached through the server (docs/adr/0029).
"""

import re
from collections.abc import Callable

from rlhf.paths import artifacts_folder, tracking_database
from rlhf.tracking.records import is_server, store_address

_PLACE = "/mlruns/artifacts"
_RUN = re.compile(r"/([0-9a-f]{32})/artifacts(?:/|$)")


def seen_from_here(artifact_uri: str, recorded: Callable[[str], str | None]) -> str:
    """The address of a folder of artifacts as it is from here. Runs of other projects' stores keep theirs.

    Args:
        artifact_uri: as MLflow has it.
        recorded: takes the id of a run, and says where the project's own SQLite file has the artifacts of all runs;
            None for a run that is not in the file.
    """
    run = _RUN.search(artifact_uri)
    location = recorded(run[1]) if run and tracking_database().is_file() else None
    # One that ends otherwise was chosen by a person, and did not move with the project.
    if location is None or not (location.endswith(_PLACE) and artifact_uri.startswith(f"{location}/")):
        return artifact_uri
    return artifacts_folder().as_uri() + artifact_uri.removeprefix(location)


def is_of_server(artifact_uri: str, recorded: Callable[[str], str | None]) -> bool:
    """Whether a folder of artifacts is on the disk of the server that is asked, and no folder of this project.

    On another host the same path is a folder of its own, where nobody would look for what was written.

    Args:
        artifact_uri: as MLflow has it, of a folder.
        recorded: as `seen_from_here` takes it.
    """
    if not is_server(store_address()):
        return False
    run = _RUN.search(artifact_uri)
    if run is None:
        return not f"{artifact_uri}/".startswith(f"{artifacts_folder().as_uri()}/")
    return not tracking_database().is_file() or recorded(run[1]) is None


def through_server(artifact_uri: str) -> str | None:
    """The address under which `rlhf up` hands out a folder of its project; None where a person chose the folder."""
    _, place, rest = f"{artifact_uri}/".rpartition(f"{_PLACE}/")
    return f"mlflow-artifacts:/{rest}".rstrip("/") if place else None

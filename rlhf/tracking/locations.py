"""Folders of artifacts: where they are from here, though the project was moved, copied or is mounted elsewhere.

MLflow writes the whole path of a folder into the row of each run, and the path of the project's first place stays there
(docs/adr/0019). So a path is looked up when it is used, and no row is ever changed.
"""

import re
from collections.abc import Callable

from rlhf.paths import artifacts_folder, tracking_database

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

"""Small files among a run's artifacts: in place where the store is a local folder, otherwise by way of MLflow."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlparse

from rlhf.files.atomic import write_file
from rlhf.paths import tracking_database
from rlhf.tracking.locations import is_of_server, seen_from_here
from rlhf.tracking.records import RunRecord
from rlhf.tracking.sqlite_store import has_known_schema, recorded_location


def read_file(run: RunRecord, path: str) -> bytes | None:
    """The content of an artifact; None where the run has none of this name."""
    folder = local_artifacts(run.artifact_uri)
    if folder is not None:
        return (folder / path).read_bytes() if (folder / path).is_file() else None
    from rlhf.tracking.files import read_bytes

    return read_bytes(run.run_id, path)


def write_files(run: RunRecord, folder: str, files: Mapping[str, bytes]) -> None:
    """Store files as artifacts of a run, each whole or not at all; what was there under these names is replaced.

    Args:
        run: the run.
        folder: of its artifacts.
        files: contents by name.
    """
    local = local_artifacts(run.artifact_uri)
    for name, content in files.items():
        if local is not None:
            write_file(local / folder / name, content)
        else:
            from rlhf.tracking.files import log_content

            log_content(run.run_id, content, f"{folder}/{name}")


def local_artifacts(artifact_uri: str) -> Path | None:
    """The folder that an artifact URI names, as it is from here; None where MLflow must be asked for what is in it."""
    if urlparse(artifact_uri).scheme not in ("", "file"):
        return None
    if tracking_database().is_file() and not has_known_schema(tracking_database()):
        return None
    if is_of_server(artifact_uri, recorded_location):
        return None
    return Path(unquote(urlparse(seen_from_here(artifact_uri, recorded_location)).path))

"""Small files of runs, beside what stages leave."""

import tempfile
from pathlib import Path

from rlhf.tracking.client import client, retry_while_unavailable


def log_content(run_id: str, content: bytes, path: str) -> None:
    """Store a file's content as an artifact; what was there under this name is replaced."""
    with tempfile.TemporaryDirectory(prefix="rlhf-") as scratch:
        file = Path(scratch) / Path(path).name
        file.write_bytes(content)
        log_file(run_id, file, Path(path).parent.as_posix())


def log_file(run_id: str, file: Path, folder: str) -> None:
    """Store a file as an artifact.

    Args:
        run_id: the run.
        file: it keeps its name.
        folder: of the run's artifacts; `.` for their top.
    """
    retry_while_unavailable(lambda: client().log_artifact(run_id, str(file), None if folder == "." else folder))


def list_paths(run_id: str, folder: str) -> list[str]:
    """The paths of the artifacts in a folder of a run."""
    return sorted(file.path for file in retry_while_unavailable(lambda: client().list_artifacts(run_id, folder)))


def read_bytes(run_id: str, path: str) -> bytes | None:
    """The content of an artifact; None where the run has none of this name."""

    def read() -> bytes | None:
        parent = Path(path).parent.as_posix()
        names = {file.path for file in client().list_artifacts(run_id, None if parent == "." else parent)}
        if path not in names:
            return None
        with tempfile.TemporaryDirectory(prefix="rlhf-") as scratch:
            return Path(client().download_artifacts(run_id, path, scratch)).read_bytes()

    return retry_while_unavailable(read)

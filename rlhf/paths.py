"""Paths of the project's stores, and the environment of its tools. Nothing happens at import."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from rlhf.errors import ConfigError

UMASK_VARIABLE = "RLHF_UMASK"
LocalFolder = Literal[
    "artifacts",  # copies of artifacts from a store that is not a local folder, by sha256
    "data",  # copies of versions of the data, by md5
    "environments",  # virtual environments of lock files, each with its lock
    "errors",  # tracebacks of defects
    "judgments",  # what endpoints answered, by what they were asked
    "models",  # outcomes of checks of the files of models from outside
    "pipelines",  # a locked file for every pipeline run that is alive, by which the dead are told
    "reproductions",  # working trees in which runs were made again
    "results",  # Prefect's JSON results, whose keys are the fingerprints
    "services",  # logs, socket and settings of what `rlhf up` has started
    "stages",  # working folders of the stages, one per fingerprint, each with its lock
    "stores",  # notes of the MLflow stores that runs were logged to
    "unsent",  # metrics that a tracking server did not take in time; the next run sends them
]
"""A folder of `.rlhf/`. `rlhf.runs.gc.local_folders` says of each what may go."""
_other_root: ContextVar[Path | None] = ContextVar("other_root", default=None)
_QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def root() -> Path:
    """The project's root, against which the paths of all stores resolve: RLHF_ROOT, or the folder above the package."""
    other = _other_root.get()
    if other is not None:
        return other
    given = os.environ.get("RLHF_ROOT")
    return Path(given).resolve() if given else source_root()


@contextmanager
def in_project(folder: Path) -> Iterator[None]:
    """Within the block all stores belong to another project, even where the environment names stores."""
    token = _other_root.set(folder.resolve())
    try:
        yield
    finally:
        _other_root.reset(token)


def in_other_project() -> bool:
    """Whether the stores are not those that the environment names."""
    return _other_root.get() is not None


def source_root() -> Path:
    """The folder that holds the packages `rlhf`, `tasks` and `flows`, and in a checkout the lock file."""
    return Path(__file__).resolve().parent.parent


def tracking_database() -> Path:
    """MLflow's SQLite file, unless MLFLOW_TRACKING_URI names another store."""
    return root() / "mlruns" / "mlflow.db"


def artifacts_folder() -> Path:
    """MLflow's artifacts, where the SQLite file is its store."""
    return root() / "mlruns" / "artifacts"


def state_folder(project: Path | None = None) -> Path:
    """The folder of what this machine keeps of a project beside its stores; of this project where no other is named."""
    return (project or root()) / ".rlhf"


def local_folder(name: LocalFolder, project: Path | None = None) -> Path:
    """One of the folders of `.rlhf/`."""
    return state_folder(project) / name


def stage_folder(stage: str, fingerprint: str) -> Path:
    """The working folder of a stage's attempts with one fingerprint, and of their checkpoints."""
    return local_folder("stages") / f"{stage}-{fingerprint[:16]}"


def run_environment() -> dict[str, str]:
    """The environment of every process of a run: quiet libraries, and no telemetry."""
    return {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "rlhf",
        # The automation of `rlhf up` takes a run for dead after two minutes; Prefect's default is three.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "DVC_NO_ANALYTICS": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def configure_environment(*, quiet: bool = True) -> None:
    """Set what the environment leaves open. Call it before prefect, mlflow, dvc or transformers are imported.

    Prefect's home is `.prefect/` in the project, nothing telephones home, and a tracking server that is gone is given
    up on in seconds rather than minutes.

    Args:
        quiet: keep what the libraries say off the console. Prefect's own store keeps its log lines either way.
    """
    defaults = {"PREFECT_HOME": str(root() / ".prefect")} | run_environment()
    for name, value in (defaults | (_QUIET if quiet else {})).items():
        os.environ.setdefault(name, value)


def umask() -> int:
    """The umask of files that this project writes: others may do nothing, unless RLHF_UMASK says otherwise.

    Raises:
        ConfigError: the variable holds no octal number.
    """
    given = os.environ.get(UMASK_VARIABLE, "077")
    try:
        mask = int(given, 8)
    except ValueError:
        mask = -1
    if not 0 <= mask <= 0o777:
        raise ConfigError(f"{UMASK_VARIABLE} is {given!r}; expected an octal number from 000 to 777, such as 027")
    return mask


@contextmanager
def others_kept_out() -> Iterator[None]:
    """Within the block files are written with `umask()`, by this process and those that it starts."""
    before = os.umask(umask())
    try:
        yield
    finally:
        os.umask(before)

"""Messages about what somebody has deleted in MLflow, which keeps it until `mlflow gc`, and how to restore it."""

import shlex
import sys
from pathlib import Path

from rlhf.addresses import public_address


def deleted_experiment(uri: str, experiment_id: str) -> str:
    """The message about the experiment of all runs."""
    return (
        f"the experiment rlhf was deleted in the MLflow store {public_address(uri)}, and all runs with it; "
        f"restore it: `{_restore(uri)} experiments restore --experiment-id {experiment_id}`"
    )


def deleted_run(uri: str, run_id: str) -> str:
    """The message about a run."""
    return f"run {run_id} was deleted in MLflow; restore it: `{_restore(uri)} runs restore --run-id {run_id}`"


def _restore(uri: str) -> str:
    """The program with the store that it is to ask. Whoever needs a password knows it."""
    program = shlex.quote(str(Path(sys.executable).parent / "mlflow"))
    return f"MLFLOW_TRACKING_URI={shlex.quote(public_address(uri))} {program}"

"""The servers and stores that a command asks."""

import os

from rlhf.paths import configure_environment
from rlhf.services.settings import PASSWORD_VARIABLE, USER, LoginFrom, Services, running


def be_client_of(services: Services) -> None:
    """Ask these servers. Call it before Prefect and MLflow are imported: they read the environment once."""
    os.environ.update(services.client_environment())
    configure_environment()


def use_the_store() -> None:
    """Ask the servers of `rlhf up` where it is up, else the project's own store. Call it before MLflow is imported.

    Raises:
        InputError: the store that is set does not answer, or cannot be used.
    """
    services = running() if "MLFLOW_TRACKING_URI" not in os.environ else None
    if services is not None:
        os.environ.update(services.client_environment())
    configure_environment()
    if os.environ.get("MLFLOW_TRACKING_URI"):
        from rlhf.tracking.client import check_reachable

        check_reachable()


def log_in() -> None:
    """Let RLHF_PASSWORD be the password for servers that variables name, unless others say more."""
    password = os.environ.get(PASSWORD_VARIABLE)
    if password:
        os.environ.setdefault("PREFECT_API_AUTH_STRING", f"{USER}:{password}")
        os.environ.setdefault("MLFLOW_TRACKING_USERNAME", USER)
        os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", password)


def login_from() -> LoginFrom:
    """The place that the servers' password comes from."""
    return "variable" if os.environ.get(PASSWORD_VARIABLE) else "file"

"""MLflow's application as `rlhf up` serves it; pyproject.toml names it to MLflow as the app `rlhf`."""

import os

from starlette.types import ASGIApp

from rlhf.services.own_site import own_site
from rlhf.tracking.client import open_folders_where_they_are


def create_app() -> ASGIApp:
    """MLflow behind `own_site`, with its logins where `rlhf up` has set them up."""
    open_folders_where_they_are()
    if "MLFLOW_AUTH_CONFIG_PATH" in os.environ:
        from mlflow.server.auth import create_app as with_logins

        return own_site(with_logins())
    from mlflow.server.fastapi_app import app

    return own_site(app)

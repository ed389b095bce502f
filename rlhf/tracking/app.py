"""MLflow's application as `rlhf up` serves it; pyproject.toml names it to MLflow as the app `rlhf`."""

import os

from mlflow.server.constants import ARTIFACTS_DESTINATION_ENV_VAR
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlhf.paths import artifacts_folder
from rlhf.services.own_site import own_site
from rlhf.tracking.client import HANDS_OUT, open_folders_where_they_are


def create_app() -> ASGIApp:
    """MLflow behind `own_site`, with its logins where `rlhf up` has set them up."""
    open_folders_where_they_are(in_server=True)
    if "MLFLOW_AUTH_CONFIG_PATH" in os.environ:
        from mlflow.server.auth import create_app as with_logins

        return own_site(_saying_so(with_logins()))
    from mlflow.server.fastapi_app import app

    return own_site(_saying_so(app))


def _saying_so(app: ASGIApp) -> ASGIApp:
    """The application, which tells clients of other hosts that the artifacts of the project's folder are asked of it.

    A server with another destination would take artifacts, and keep them where no run looks for them.
    """
    if os.environ.get(ARTIFACTS_DESTINATION_ENV_VAR) != artifacts_folder().as_uri():
        return app

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HANDS_OUT] = "handed out"
            await send(message)

        await app(scope, receive, send_with_header)

    return answer

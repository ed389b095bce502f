"""People who may sign in to MLflow to answer questions: its logins and what they may do, by its server."""

import os
from collections.abc import Mapping, Sequence

from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request, verify_rest_response

from rlhf.errors import InputError
from rlhf.services.settings import USER
from rlhf.tracking.client import TrackingError, experiment_id, retry_while_unavailable, tracking_uri
from rlhf.tracking.records import is_server

_USERS = "/api/2.0/mlflow/users/"
_GRANT = "/api/3.0/mlflow/users/permissions/grant"


class Reviewers:
    """People who may sign in to MLflow to answer questions, and what they may do there. Asks its server."""

    def is_kept(self) -> bool:
        """Whether the server asks who one is."""
        return is_server(tracking_uri()) and self._has(os.environ.get("MLFLOW_TRACKING_USERNAME") or USER)

    def add(self, name: str, password: str) -> None:
        """Let somebody sign in, to whom the runs are closed; what other experiments and models there are, she may read.

        Raises:
            InputError: the name is taken.
        """
        if self._has(name):
            raise InputError(f"{name} can sign in already; `rlhf users remove {name}` takes that back")
        retry_while_unavailable(lambda: _call("POST", _USERS + "create", {"username": name, "password": password}))
        self._grant(name, experiment_id(), "DENY")

    def remove(self, name: str) -> None:
        """Let somebody sign in no more. What she has answered stays.

        Raises:
            InputError: there is nobody of this name.
        """
        if not self._has(name):
            raise InputError(f"nobody of the name {name} can sign in")
        retry_while_unavailable(lambda: _call("DELETE", _USERS + "delete", {"username": name}))

    def check(self, names: Sequence[str]) -> None:
        """Refuse people who cannot sign in, where the server asks who one is.

        Raises:
            InputError: naming the first.
        """
        missing = [name for name in names if not self._has(name)] if names and self.is_kept() else []
        if missing:
            raise InputError(
                f"{missing[0]} cannot sign in to MLflow, so nobody would answer; `rlhf users add {missing[0]}` makes "
                f"the login, or leave the name out of annotators"
            )

    def let_review(self, names: Sequence[str], experiment: str) -> None:
        """Let people answer in an experiment. The least that MLflow asks for that is the right to change it."""
        if names and self.is_kept():
            for name in names:
                self._grant(name, experiment, "EDIT")

    @staticmethod
    def _grant(name: str, experiment: str, permission: str) -> None:
        resource = {"resource_type": "experiment", "resource_id": experiment}
        given = {"username": name, **resource, "permission": permission}
        retry_while_unavailable(lambda: _call("POST", _GRANT, given))

    @staticmethod
    def _has(name: str) -> bool:
        try:
            retry_while_unavailable(lambda: _call("GET", _USERS + "get", {"username": name}))
        except TrackingError as error:
            code = getattr(error.__cause__, "error_code", "")
            if code in ("RESOURCE_DOES_NOT_EXIST", "ENDPOINT_NOT_FOUND", "NOT_FOUND"):
                return False
            raise
        return True


def _call(method: str, endpoint: str, given: Mapping[str, str]) -> None:
    """Ask the server. MLflow's own client of these routes imports its whole server."""
    how = {"params": given} if method == "GET" else {"json": given}
    credentials = get_default_host_creds(tracking_uri())  # type: ignore[no-untyped-call]
    answer = http_request(credentials, endpoint, method, **how)  # type: ignore[no-untyped-call]
    verify_rest_response(answer, endpoint)

"""The Prefect server that the environment or Prefect's own settings name: does it answer, and if not, who named it?"""

import os
import shlex

from rlhf.addresses import ask_within, public_address
from rlhf.errors import ConfigError, one_line
from rlhf.services.settings import running, services_folder

ANSWER_SECONDS = 6.0
"""For everything: a name that does not resolve has no time limit of its own."""


def check_answers(url: str) -> None:
    """Tell within seconds that there is no Prefect server where a flow would call one.

    Args:
        url: of the API.

    Raises:
        ConfigError: nothing answers there, or something that is not Prefect. Says which setting is to be changed.
    """
    problem = _problem()
    if problem is not None:
        raise ConfigError(f"{_setting()} is {public_address(url)}, {problem}; {_advice(url)}")


def _problem() -> str | None:
    """The problem with the server; None where Prefect's own client gets Prefect's answer."""
    try:
        version = ask_within(ANSWER_SECONDS, _version)
    except Exception as error:  # noqa: BLE001  # whatever it is, the server is none that can be used
        return _why(error)
    is_version = isinstance(version, str) and version[:1].isdigit()
    return None if is_version else "where something answers that is not Prefect's API"


def _version() -> object:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
        return client.api_version()


def _why(error: Exception) -> str:
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        if status in (401, 403):
            return f"which does not let you in (HTTP {status}): set PREFECT_API_AUTH_STRING, or RLHF_PASSWORD"
        return f"where something answers that is not Prefect's API (HTTP {status})"
    if isinstance(error, ValueError):
        return "where something answers that is not Prefect's API (no JSON)"
    return f"where no server answers ({one_line(error)})"


def _setting() -> str:
    """Who says which server it is."""
    if "PREFECT_API_URL" in os.environ:
        return "PREFECT_API_URL"
    from prefect.context import get_settings_context

    profile = get_settings_context().profile
    if any(setting.name == "PREFECT_API_URL" for setting in profile.settings):
        return f"PREFECT_API_URL in the Prefect profile {profile.name}"
    return "PREFECT_API_URL in a settings file of Prefect's (prefect.toml, pyproject.toml or .env)"


def _advice(url: str) -> str:
    services = running()
    if services is not None and url == f"{services.prefect_url}/api":
        return f"it belongs to `rlhf up`: look at {services_folder() / 'prefect.log'}, or stop it with `rlhf down`"
    start = "or start the server: `rlhf up`"
    if "PREFECT_API_URL" in os.environ:
        return f"unset it, and the run has a server of its own; {start}"
    home = shlex.quote(os.environ["PREFECT_HOME"])
    if "profile" in _setting():
        return f"remove it with `PREFECT_HOME={home} prefect config unset PREFECT_API_URL`; {start}"
    return f"remove it there (`PREFECT_HOME={home} prefect config view --show-sources` tells where); {start}"

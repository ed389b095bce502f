"""`rlhf worker`: a second host for the `rlhf up` of a first one."""

import argparse
import os

from rlhf.cli.environment import log_in
from rlhf.errors import ConfigError
from rlhf.paths import configure_environment
from rlhf.services.settings import PASSWORD_VARIABLE

_SERVERS = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Compute on this host the stages that recipes send to a pool (cluster.stage_pools), for the `rlhf up` of "
        f"another host, until Ctrl-C. {' and '.join(_SERVERS)} name its servers, and {PASSWORD_VARIABLE} has their "
        "password. Both hosts must have the same code."
    )
    parser.add_argument("--pool", required=True, metavar="NAME", help="the pool, which is made where it is new")


def run(options: argparse.Namespace) -> None:
    """Join the pool, and work.

    Raises:
        ConfigError: no servers are named, or the pool's name is none.
    """
    missing = [name for name in _SERVERS if not os.environ.get(name, "").startswith(("http://", "https://"))]
    if missing:
        raise ConfigError(
            f"{missing[0]} names no server; set {' and '.join(_SERVERS)} to those of the other host's `rlhf up`, which "
            "is started with --host, as in PREFECT_API_URL=http://HOST:4200/api MLFLOW_TRACKING_URI=http://HOST:5000"
        )
    check_pool_name(options.pool)
    log_in()
    configure_environment()
    from flows.servers.worker import work

    work(options.pool)


def check_pool_name(name: str) -> None:
    """Refuse a name that a recipe could not have.

    Raises:
        ConfigError: says which names can be taken.
    """
    from pydantic import TypeAdapter, ValidationError

    from rlhf.config.cluster import PoolName

    try:
        TypeAdapter(PoolName).validate_python(name)
    except ValidationError:
        raise ConfigError(
            f"--pool {name}: expected lower-case letters, digits and hyphens, at most 60, such as gpu"
        ) from None

"""`rlhf up`: the services, for as long as it runs."""

import argparse
import os
from collections.abc import Callable

from rlhf.cli.environment import be_client_of, login_from
from rlhf.errors import ConfigError
from rlhf.services.postgresql import DATABASE_VARIABLE, has_password
from rlhf.services.settings import PASSWORD_VARIABLE, USER, Services, make_password, password_file
from rlhf.text.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    defaults = Services()
    parser.description = (
        "Start the Prefect server, the MLflow server and a worker on this machine, register all deployments, and hold "
        f"them until Ctrl-C or `rlhf down`. Both servers ask for user {USER} and a password: that in "
        f"{PASSWORD_VARIABLE}, or one that is made at the first start."
    )
    parser.add_argument(
        "--host",
        default=defaults.host,
        help=f"address that both listen at [default: {defaults.host}]",
    )
    parser.add_argument(
        "--no-password",
        action="store_true",
        help="ask for none: every program and user of this machine may then start runs, and read and change results",
    )
    add_ports(parser)
    parser.add_argument(
        "--database",
        metavar="URL",
        help=f"postgresql://USER@HOST:PORT/NAME for both, in schemas of their own; one with a password goes into "
        f"{DATABASE_VARIABLE} [default: SQLite files]",
    )
    parser.add_argument(
        "--artifacts-destination",
        metavar="URI",
        help="where MLflow's server keeps artifacts, for a store that has none yet: s3://BUCKET/FOLDER or "
        "file:///FOLDER. Runs reach it through the server alone [default: mlruns/artifacts]",
    )


def add_ports(parser: argparse.ArgumentParser) -> None:
    """Add the ports of both servers."""
    defaults = Services()
    for name, port in (("prefect", defaults.prefect_port), ("mlflow", defaults.mlflow_port)):
        parser.add_argument(f"--{name}-port", type=int, metavar="N", default=port, help=f"[default: {port}]")


def run(options: argparse.Namespace) -> None:
    """Start the services, and hold them.

    Raises:
        ConfigError: a password among the arguments.
    """
    if options.database and has_password(options.database):
        raise ConfigError(
            f"--database: the address holds a password, and others see a command's arguments; set {DATABASE_VARIABLE} "
            "to the address in place of the flag, and change the password if others use this machine"
        )
    database = options.database or os.environ.get(DATABASE_VARIABLE)
    given = "--database" if options.database else DATABASE_VARIABLE
    login = "none" if options.no_password else login_from()
    ports = (options.prefect_port, options.mlflow_port)
    start(Services(options.host, *ports, database, given, login, options.artifacts_destination))


def start(services: Services, on_ready: Callable[[], None] = lambda: None) -> None:
    """Make a password where one is missing, start the services, and hold them.

    Args:
        services: addresses, database, password.
        on_ready: called once all of them answer.
    """
    services.check()
    if services.login_from == "file" and services.password is None:
        made = make_password()
        say(f"A password was made for user {USER}, and is kept in {password_file()}: {made}")
    be_client_of(services)
    from flows.servers.up import up

    up(services, on_ready)

"""`rlhf open`: a run's pages in both user interfaces."""

import argparse
import os
import webbrowser

from rlhf.cli.console import prefect_page
from rlhf.cli.environment import be_client_of, login_from, use_the_store
from rlhf.cli.up import add_ports, start
from rlhf.errors import ConfigError
from rlhf.services.postgresql import DATABASE_VARIABLE
from rlhf.services.settings import Services, running
from rlhf.text.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Open a run's pages in Prefect and MLflow. Where `rlhf up` is not up it is started, and held until Ctrl-C."
    )
    parser.add_argument(
        "run", metavar="RUN", help="run id or the beginning of one, RECIPE@champion, RECIPE/3, or champion"
    )
    add_ports(parser)
    parser.add_argument("--no-browser", action="store_true", help="print the addresses only")


def run(options: argparse.Namespace) -> None:
    """Open the pages.

    Raises:
        ConfigError: the run is on a server that somebody else has started, or the services are up at other ports.
        InputError: there is no such run.
    """
    given, services = os.environ.get("MLFLOW_TRACKING_URI"), running()
    if given is not None and not given.startswith(("http://", "https://")):
        raise ConfigError(
            f"MLFLOW_TRACKING_URI is {given}, which no server of `rlhf up` shows; unset it, or set it to a server's "
            "address"
        )
    ports = (options.prefect_port, options.mlflow_port)
    if (services or given) and ports != (Services.prefect_port, Services.mlflow_port):
        raise ConfigError("the servers are up already; leave --prefect-port and --mlflow-port away")
    database = os.environ.get(DATABASE_VARIABLE)
    if services is not None and given is None:
        be_client_of(services)
    else:
        use_the_store()
    if given is None and services is None:
        if database is None:
            _pages(options.run)  # a mistyped run is told before anything is started
        services = Services(Services.host, *ports, database, DATABASE_VARIABLE, login_from())
        start(services, lambda: _show(options))
    else:
        _show(options)


def _show(options: argparse.Namespace) -> None:
    for name, page in _pages(options.run).items():
        say(f"{name}: {page}", flush=True)
        if not options.no_browser:
            webbrowser.open(page)


def _pages(text: str) -> dict[str, str]:
    """The addresses of the run that is meant, by the names of the user interfaces."""
    from rlhf.runs.audit.target import find_target
    from rlhf.tracking.client import run_url
    from rlhf.tracking.queries import tags_of
    from rlhf.tracking.tags import FLOW_RUN_TAG

    run_id, services = find_target(text).run_id, running()
    prefect = (
        {} if services is None else {"Prefect": prefect_page(services.prefect_url, tags_of(run_id).get(FLOW_RUN_TAG))}
    )
    return {**prefect, "MLflow": run_url(run_id)}

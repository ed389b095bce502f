"""`rlhf ui`: where the user interfaces are."""

import argparse

from rlhf.cli.console import print_ui_commands
from rlhf.cli.environment import be_client_of, login_from
from rlhf.errors import ConfigError
from rlhf.services.settings import PASSWORD_VARIABLE, Services, running
from rlhf.text.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--show-password", action="store_true", help="print the password alone, and nothing else")


def run(options: argparse.Namespace) -> None:
    """Print addresses and commands, or the password."""
    services = running()
    if options.show_password:
        say(_password(services))
        return
    if services is not None:
        be_client_of(services)
    print_ui_commands()
    if services is not None and services.login is not None:
        say(f"{services.login}; `rlhf ui --show-password` prints it")


def _password(services: Services | None) -> str:
    """The password that the servers ask for now, or will at the next start.

    Raises:
        ConfigError: there is none, or this process does not know it.
    """
    asked = services or Services(login_from=login_from())
    if asked.password is None:
        raise ConfigError(
            {
                "none": "the services were started with --no-password",
                "variable": f"the services ask for what {PASSWORD_VARIABLE} held when they were started; look there",
                "file": "no password was made yet; the first `rlhf up` makes one",
            }[asked.login_from]
        )
    return asked.password

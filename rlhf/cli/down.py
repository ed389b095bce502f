"""`rlhf down`: an end to what `rlhf up` has started."""

import argparse

from rlhf.cli.environment import be_client_of
from rlhf.services.settings import Services, last_address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command takes no arguments."""


def run(options: argparse.Namespace) -> None:
    """Stop the services."""
    be_client_of(last_address() or Services())
    from flows.servers.up import down

    down()

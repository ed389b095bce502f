"""`rlhf users`: people who may sign in to MLflow to answer questions."""

import argparse
import re
import secrets

from rlhf.cli.environment import be_client_of
from rlhf.errors import ConfigError
from rlhf.services.settings import running
from rlhf.text.terminal import say

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions, and what each takes."""
    actions = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, words in (
        ("add", "make a login for a person who answers rounds of feedback; its password is printed once"),
        ("remove", "take a person's login back; what was answered stays"),
    ):
        action = actions.add_parser(name, help=words, allow_abbrev=False, description=f"{words[0].upper()}{words[1:]}.")
        action.set_defaults(action=name, parser=action)
        action.add_argument("name", metavar="NAME", help="the login, as in ann or ann@example.org")


def run(options: argparse.Namespace) -> None:
    """Do what was asked.

    Raises:
        ConfigError: no server asks who one is, or the name cannot be a login.
    """
    services = running()
    if services is None:
        raise ConfigError("MLflow is not up, and it keeps the logins; start it with `rlhf up`")
    if services.login is None:
        raise ConfigError("the services were started with --no-password, so nobody signs in; start them without it")
    if not _NAME.fullmatch(options.name):
        raise ConfigError(f"{options.name!r} cannot be a login; take letters, digits and . _ @ -, as in ann")
    be_client_of(services)
    from rlhf.tracking.reviewers import Reviewers

    if options.action == "remove":
        Reviewers().remove(options.name)
        say(f"{options.name} can sign in no more.")
        return
    password = secrets.token_urlsafe(12)
    Reviewers().add(options.name, password)
    say(f"{options.name} can sign in at {services.mlflow_url} with the password {password} (it is printed once).")

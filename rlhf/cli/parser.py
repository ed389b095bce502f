"""The parser of the command line. Each command has a module of its own, which is imported once it is named.

So help and mistakes come at once: pydantic alone takes as long as they may.
"""

import argparse
from collections.abc import Collection, Sequence
from importlib import import_module
from itertools import zip_longest
from typing import Any, NoReturn

from rlhf.earlier_names import given_flag
from rlhf.errors import ConfigError, check_name, nearest
from rlhf.text.terminal import printable, say

COMMANDS = {
    "init": "write a recipe for your own data and model",
    "plan": "say what a run of a recipe would find, compute and cost",
    "size": "say whether a recipe fits GPUs that need not be here, and how long an update would take",
    "run": "run all stages of a recipe",
    "stage": "run one stage on the outputs of earlier runs",
    "compare-methods": "run a recipe with several methods, and say which differences are real",
    "reproduce": "make a run again from its MLflow run id, and compare",
    "chat": "talk to a policy, and judge its answers",
    "serve": "let other tools talk to a policy, as to OpenAI's models",
    "export": "take a policy elsewhere: a folder, a hub, llama.cpp",
    "runs": "list pipeline runs, with what came of them",
    "open": "open a run in Prefect and MLflow, and start them if need be",
    "report": "show what a run came to, on one page",
    "compare": "say what differs between runs",
    "verify": "find what was changed in a run after it was logged",
    "lineage": "draw what a policy came from, and verify it",
    "gc": "list, and with --yes remove, what no run needs any more",
    "feedback": "ask people to compare a policy's answers, and take what they say into data/",
    "users": "let people sign in to MLflow to answer, and no more",
    "data": "import, check, compare and share data",
    "up": "start Prefect, MLflow and a worker, with all deployments",
    "schedule": "retrain every day at a time",
    "down": "stop what `rlhf up` has started",
    "ui": "say where Prefect's and MLflow's user interfaces are, and what opens them",
}
"""The commands, each with its line of help. `rlhf.cli.<command>`, with `_` for `-`, has `add_arguments` and `run`."""


def command_module(name: str) -> Any:
    """The module of a command."""
    return import_module(f"rlhf.cli.{name.replace('-', '_')}")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read a command line.

    Args:
        arguments: what follows `rlhf`.

    Returns:
        `command`, such as `run` or `data`, and what it was given; settings by their dotted names.

    Raises:
        ConfigError: a flag that there is not.
        InputError: an argument that is no text.
        SystemExit: after help (0), or another mistake in the form of the command (2).
    """
    for argument in arguments:
        check_name(argument, "on the command line")
    named = next((argument for argument in arguments if not argument.startswith("-")), "")
    if named and named not in COMMANDS:
        raise ConfigError(f"{named} is not a command; the nearest known one is {nearest(named, COMMANDS)}")
    parser = _parser(named)
    if not arguments:
        parser.print_help()
        parser.exit()
    switches: Collection[str] = ()
    if named in ("plan", "size", "run", "compare-methods", "stage"):
        arguments = [given_flag(argument) for argument in arguments]
        recipe = command_module("recipe")
        switches = recipe.switches()
        arguments, section = recipe.asked_section(arguments)
        recipe.shorten_help(parser, section)
    options, unknown = parser.parse_known_args(_in_kebab_case(arguments, switches))
    flags = [argument.partition("=")[0] for argument in unknown if argument.startswith("--")]
    if flags:
        known = [flag for action in options.parser._actions for flag in action.option_strings if flag.startswith("--")]
        noun = "setting" if "config" in options else "flag"
        raise ConfigError(f"{flags[0]} is not a {noun}; the nearest known one is {nearest(flags[0], known)}")
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


class _Version(argparse.Action):
    """Prints the version. Only then is it looked up."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print, and exit."""
        from importlib.metadata import version

        say(f"rlhf {version('rlhf-pipeline')}")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """A parser whose errors show arguments, such as file names that a shell has filled in, as text."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit."""
        super().error(printable(message))


def _parser(named: str | None = None) -> argparse.ArgumentParser:
    """All commands, and the arguments of the one that is named, or of all of them."""
    parser: argparse.ArgumentParser = _Parser(prog="rlhf", description="Align a language model with human preferences.")
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, allow_abbrev=False)
        command.set_defaults(command=name, parser=command)
        if named in (name, None):
            command_module(name).add_arguments(command)
    return parser


def _in_kebab_case(arguments: Sequence[str], switches: Collection[str]) -> list[str]:
    """Flags may come in snake case, and a true-or-false flag without its value means true."""
    result: list[str] = []
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        flag, equals, value = argument.partition("=")
        if flag.startswith("--"):
            flag = flag.replace("_", "-")
        if flag in switches and not equals and following.lower() not in ("true", "false"):
            equals, value = "=", "true"
        result.append(flag + equals + value)
    return result

"""The command `rlhf`. Anything heavy is imported once it is needed, so that help and mistakes come at once."""

import argparse
import json
import math
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rlhf.config import PipelineConfig
from rlhf.configuration import Setting, load_config, nearest, settings
from rlhf.errors import ConfigError, RLHFError
from rlhf.project import configure_environment
from rlhf.references import PipelineReport

_SHORT_FLAGS = {"--allow-dirty-data": "--data.allow-dirty-data"}
_USAGE = "rlhf {} [--help] [--json] {}CONFIG [--SECTION.SETTING VALUE ...]"
_METAVARS = {"integer": "N", "number": "X", "string": "TEXT", "boolean": "true|false", "section": "none"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows `rlhf`; the process's own where None.

    Returns:
        The exit code: 0, or 130 after Ctrl-C, or that of the error. A mistake in what was given has 2.

    Raises:
        SystemExit: after help (0), a mistake in the form of the command (2), or SIGTERM (143).
    """
    given = _in_kebab_case(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    try:
        with _terminable():
            options, unknown = parser.parse_known_args(given)
            _refuse(unknown, options, parser)
            code: int = options.run(options)
    except RLHFError as error:
        print(f"rlhf: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("rlhf: interrupted; the same command goes on from the last checkpoints", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rlhf", description="Align a language model with human preferences.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="run the pipeline of a recipe", usage=_USAGE.format("run", ""), **_PLAIN))
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run all stages of a recipe. What is unchanged since an earlier run is taken from there."
    parser.set_defaults(run=_run)
    _add_recipe(parser)

"""What may be typed after `rlhf`, with the help of it. A flag for every setting comes from rlhf/config/."""

import argparse
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn

from rlhf.cli import compare, data, gc, lineage, reproduce, verify
from rlhf.cli import runs as listing
from rlhf.config.loading import Setting, nearest, settings, shown
from rlhf.errors import ConfigError, check_name
from rlhf.services.postgresql import DATABASE_VARIABLE
from rlhf.services.settings import PASSWORD_VARIABLE, USER, Services
from rlhf.stages import STAGES, pipeline_stages
from rlhf.text.terminal import printable

_ALIASES = {"--allow-dirty-data": "--data.allow-dirty-data"}
_METAVARS = {"integer": "N", "number": "X", "string": "TEXT", "boolean": "true|false", "section": "none"}
_SETTINGS = (
    "Any setting of the recipe can be given as a flag: --ppo.kl-coef 0.05 --seed 1. `none` clears an optional one."
)


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
    options, unknown = _parser().parse_known_args(_in_kebab_case(arguments))
    flags = [argument.partition("=")[0] for argument in unknown if argument.startswith("--")]
    if flags:
        known = [flag for action in options.parser._actions for flag in action.option_strings if flag.startswith("--")]
        noun = "setting" if "config" in options else "flag"
        raise ConfigError(f"{flags[0]} is not a {noun}; the nearest known one is {nearest(flags[0], known)}")
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    _fill_in_runs(options)
    return options


class _Parser(argparse.ArgumentParser):
    """A parser whose errors show arguments, such as file names that a shell has filled in, as text."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit."""
        super().error(printable(message))


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(prog="rlhf", description="Align a language model with human preferences.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="run all stages of a recipe", allow_abbrev=False))
    _add_stages(commands.add_parser("stage", help="run one stage on the outputs of earlier runs"))
    reproduce.add_arguments(commands)
    listing.add_arguments(commands)
    compare.add_arguments(commands)
    verify.add_arguments(commands)
    lineage.add_arguments(commands)
    gc.add_arguments(commands)
    data.add_arguments(commands)
    _add_up(
        commands.add_parser("up", help="start Prefect, MLflow and a worker, with all deployments", allow_abbrev=False)
    )
    down = commands.add_parser("down", help="stop what `rlhf up` has started")
    down.set_defaults(command="down", parser=down)
    ui = commands.add_parser("ui", help="say where Prefect's and MLflow's user interfaces are, and what opens them")
    ui.add_argument("--show-password", action="store_true", help="print the password alone, and nothing else")
    ui.set_defaults(command="ui", parser=ui)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"Run all stages of a recipe; what an earlier run made and nothing has changed is used again. {_SETTINGS}"
    )
    parser.usage = "rlhf run [--help] [--json] CONFIG [--seeds LIST | --num-seeds N] [--SECTION.SETTING VALUE ...]"
    parser.set_defaults(command="run", parser=parser)
    _add_recipe(parser)
    group = parser.add_argument_group(
        "several seeds",
        "A run for each seed, one after the other, and what they come to: means with an interval over seeds. The same "
        "command goes on with what was killed or failed.",
    )
    group.add_argument("--seeds", metavar="LIST", help="the seeds, as in 11,12,13")
    group.add_argument("--num-seeds", metavar="N", help="how many, from the recipe's seed on")


def _add_up(parser: argparse.ArgumentParser) -> None:
    defaults = Services()
    parser.description = (
        "Start the Prefect server, the MLflow server and a worker on this machine, register all deployments, and hold "
        f"them until Ctrl-C or `rlhf down`. Both servers ask for user {USER} and a password: that in "
        f"{PASSWORD_VARIABLE}, or one that is made at the first start."
    )
    parser.set_defaults(command="up", parser=parser)
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
    for name, port in (("prefect", defaults.prefect_port), ("mlflow", defaults.mlflow_port)):
        parser.add_argument(f"--{name}-port", type=int, metavar="N", default=port, help=f"[default: {port}]")
    parser.add_argument(
        "--database",
        metavar="URL",
        help=f"postgresql://USER@HOST:PORT/NAME for both, in schemas of their own; one with a password goes into "
        f"{DATABASE_VARIABLE} [default: SQLite files]",
    )


def _add_stages(parser: argparse.ArgumentParser) -> None:
    stages = parser.add_subparsers(title="stages", required=True, metavar="STAGE")
    for spec in pipeline_stages():
        stage = stages.add_parser(spec.command, allow_abbrev=False)
        stage.description = f"{spec.summary_alone} {_SETTINGS}"
        flags = [STAGES[name].flag for name in spec.inputs]
        named = "".join(f" {flag} ID" for flag in flags)
        stage.usage = f"rlhf stage {spec.command} [--help] [--json] CONFIG{named} [--SECTION.SETTING VALUE ...]"
        stage.set_defaults(command="stage", stage=spec.name, parser=stage)
        if flags:
            stage.add_argument(
                "--run", metavar="ID", help="MLflow run of an earlier pipeline, for all that is not named"
            )
        for flag in flags:
            stage.add_argument(
                flag, metavar="ID", help="MLflow run of that stage, or of a pipeline that it was part of"
            )
        _add_recipe(stage)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    """CONFIG, --json, and a flag for every setting, by section."""
    parser.add_argument(
        "config", metavar="CONFIG", type=Path, help="YAML file of the recipe, such as configs/demo.yaml"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object at the end, and all else on standard error"
    )
    groups = {"": parser.add_argument_group("settings of the whole run")}
    for setting in settings().values():
        section = setting.name.rpartition(".")[0]
        if setting.kind == "section" and not setting.optional:
            groups[setting.name] = parser.add_argument_group(setting.name, setting.help)
            continue
        while section not in groups:  # an optional section is a flag of its own, among those that are in it
            section = section.rpartition(".")[0]
        _add_setting(groups[section], setting)


def _add_setting(group: argparse._ArgumentGroup, setting: Setting) -> None:
    aliases = [alias for alias, flag in _ALIASES.items() if flag == setting.flag]
    default = "none" if setting.default is None else shown(setting.default)
    expected = "none; or set what is in it" if setting.kind == "section" else setting.expected
    group.add_argument(
        setting.flag,
        *aliases,
        dest=setting.name,
        metavar="|".join(setting.choices) or _METAVARS.get(setting.kind, "YAML"),
        default=argparse.SUPPRESS,
        help=f"{setting.help} [{expected}; default: {default}]".replace("%", "%%"),
    )


def _in_kebab_case(arguments: Sequence[str]) -> list[str]:
    """Flags may come in snake case, and a true-or-false flag without its value means true."""
    switches = {setting.flag for setting in settings().values() if setting.kind == "boolean"} | set(_ALIASES)
    result: list[str] = []
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        flag, equals, value = argument.partition("=")
        if flag.startswith("--"):
            flag = flag.replace("_", "-")
        if flag in switches and not equals and following.lower() not in ("true", "false"):
            equals, value = "=", "true"
        result.append(flag + equals + value)
    return result


def _fill_in_runs(options: argparse.Namespace) -> None:
    """`--run` stands for every earlier run that is not named."""
    for name in STAGES[options.stage].inputs if options.command == "stage" else ():
        given = STAGES[name].run_argument
        setattr(options, given, getattr(options, given) or options.run)
        if getattr(options, given) is None:
            flag = STAGES[name].flag
            options.parser.error(f"the following arguments are required: {flag} (or --run for all earlier runs)")

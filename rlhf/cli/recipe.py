"""The recipe of `rlhf run` and `rlhf stage`, with a flag for every setting, and what a flow needs around it."""

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from pathlib import Path

from rlhf.cli.environment import be_client_of
from rlhf.cli.plan_of_a_run import say_plan
from rlhf.config.loading import Setting, load_config, settings, shown
from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import ConfigError, nearest
from rlhf.imports import without_collection
from rlhf.paths import configure_environment
from rlhf.references import PipelineReport, StageReport
from rlhf.runs.note import noted
from rlhf.services.settings import running
from rlhf.text.terminal import say

_ALIASES = {"--allow-dirty-data": "--data.allow-dirty-data"}
_METAVARS = {"integer": "N", "number": "X", "string": "TEXT", "boolean": "true|false", "section": "none"}
SETTINGS_HELP = (
    "Any setting of the recipe can be given as a flag: --rl.kl-coef 0.05 --seed 1. `none` clears an optional one."
)


def add_recipe(parser: argparse.ArgumentParser) -> None:
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
        if setting.kind == "section" and ("." not in setting.name or not setting.optional):
            groups[setting.name] = parser.add_argument_group(setting.name, setting.help)
            continue
        while section not in groups:  # an optional section is a flag of its own, among those that are in it
            section = section.rpartition(".")[0]
        _add_setting(groups[section], setting)


def add_note(parser: argparse.ArgumentParser) -> None:
    """--note, for commands that run something."""
    parser.add_argument("--note", metavar="TEXT", default="", help="for those who look at the run later")


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


def switches() -> set[str]:
    """The flags that mean true where no value follows."""
    return {setting.flag for setting in settings().values() if setting.kind == "boolean"} | set(_ALIASES)


def asked_section(arguments: Sequence[str]) -> tuple[list[str], str]:
    """Take the section out of `--help SECTION`.

    Args:
        arguments: of a command line.

    Returns:
        The other arguments, and the section: `all` for every setting, nothing for none.

    Raises:
        ConfigError: there is no such section.
    """
    given = list(arguments)
    at = next((index for index, argument in enumerate(given[:-1], start=1) if argument in ("-h", "--help")), None)
    if at is None or not given[at].isidentifier():
        return given, ""
    section = given.pop(at)
    if section not in (known := [*sections(), "all"]):
        raise ConfigError(f"{section} is not a section of a recipe; the nearest known one is {nearest(section, known)}")
    return given, section


def shorten_help(parser: argparse.ArgumentParser, section: str) -> None:
    """Leave the settings of one section in the help; of none, the sections with what each is about.

    Args:
        parser: of `rlhf`, with the arguments of `rlhf run` or `rlhf stage`.
        section: `all` leaves every setting.
    """
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                shorten_help(inner, section)
        elif "." in action.dest and section not in ("all", action.dest.partition(".")[0]):
            action.help = argparse.SUPPRESS
    if section != "all":
        parser._action_groups = [
            group for group in parser._action_groups if _has_a_place(str(group.title).partition("."), section)
        ]
    if any(action.dest == "config" for action in parser._actions):
        parser.epilog = "--help SECTION shows the settings of a section, such as rl; --help all shows every setting."


def _has_a_place(title: tuple[str, str, str], section: str) -> bool:
    """Whether a group of settings is shown beside a section that is asked for; where none is, without what is in it."""
    name, is_inner, _ = title
    return (not section and not is_inner) or name == section or name not in sections()


def sections() -> Set[str]:
    """The sections of a recipe that are not within others."""
    return {setting.name for setting in settings().values() if setting.kind == "section" and "." not in setting.name}


def read_recipe(options: argparse.Namespace) -> PipelineConfig:
    """The recipe's file, and the flags that go before it."""
    return load_config(options.config, {name: value for name, value in vars(options).items() if name in settings()})


def say_first(config: PipelineConfig) -> None:
    """Print the model that a run starts from, on standard error, before a server is started for the run."""
    from rlhf.figure_gates import check_figures
    from rlhf.modeling.run_models import check_models
    from rlhf.modeling.starting_model import described
    from rlhf.rewards.functions import check_installed

    check_installed(config.rewards)
    check_figures(config.gates)
    check_models(config.model, config.rewards)
    say(described(config.model), file=sys.stderr, flush=True)


@contextmanager
def flow_environment(
    options: argparse.Namespace, planned: PipelineConfig | None = None, stages: Sequence[str] = ()
) -> Iterator[None]:
    """The surroundings of a flow: environment, server, progress; with --json, no word on standard output.

    The servers are those of `rlhf up` where it is up.

    Args:
        options: of the command.
        planned: the recipe of a pipeline run, whose plan is told before the flow is started.
        stages: names of what the flow runs, as far as they are known.
    """
    services = running()
    if services is not None and "PREFECT_API_URL" not in os.environ and "MLFLOW_TRACKING_URI" not in os.environ:
        be_client_of(services)
    configure_environment()
    logging.raiseExceptions = False  # what becomes of a log line that Prefect does not take is nothing for the terminal
    with redirect_stdout(sys.stderr) if options.json else nullcontext(), noted(options.note):

        def tell_plan() -> None:
            if planned is not None:
                say_plan(planned)

        with ExitStack() as surroundings:
            with without_collection():
                from flows.servers.temporary import temporary_server
                from rlhf.cli.progress_view import progress_view
                from rlhf.runs.names import started_from

                surroundings.enter_context(temporary_server(tell_plan))
            surroundings.enter_context(progress_view(stages))
            surroundings.enter_context(started_from(options.config))
            yield


def print_result(report: PipelineReport | StageReport, options: argparse.Namespace) -> None:
    """Print what came of a run: for people, or as one JSON object."""
    if options.json:
        print_json(report.model_dump(mode="json"))
        return
    from rlhf.cli.console import print_report, print_stages, print_ui_commands
    from rlhf.tracking.client import run_url
    from rlhf.tracking.queries import tags_of
    from rlhf.tracking.tags import FLOW_RUN_TAG

    if isinstance(report, PipelineReport):
        print_report(report)
    else:
        print_stages([report])
    print_ui_commands(run_url(report.run_id), tags_of(report.run_id).get(FLOW_RUN_TAG), report.run_id)


def print_json(report: object) -> None:
    """Print one JSON object. JSON knows neither NaN nor infinity; null stands for them."""
    say(json.dumps(_finite(report), allow_nan=False))


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

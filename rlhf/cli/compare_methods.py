"""`rlhf compare-methods`: a recipe with several methods of training the policy, and what differs between them."""

import argparse
import sys

from rich.table import Table

from rlhf.cli.recipe import SETTINGS_HELP, add_recipe, flow_environment, print_json, read_recipe, say_first
from rlhf.cli.run import add_seeds, read_seeds
from rlhf.config.methods import choose_methods, with_method
from rlhf.config.seeds import choose_seeds
from rlhf.paths import root
from rlhf.text.console import TextConsole
from rlhf.text.terminal import say

_NUM_SEEDS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Run a recipe with several methods, several seeds of each, on the same data, SFT policies and reward models, "
        f"and say which differences are real. The same command goes on with what was killed or failed. {SETTINGS_HELP}"
    )
    parser.usage = (
        "rlhf compare-methods [--help] [--json] CONFIG --methods LIST [--seeds LIST | --num-seeds N] "
        "[--SECTION.SETTING VALUE ...]"
    )
    add_recipe(parser)
    group = parser.add_argument_group("methods and seeds")
    group.add_argument("--methods", metavar="LIST", required=True, help="the methods, as in ppo,rloo")
    add_seeds(group, f"how many, from the recipe's seed on [{_NUM_SEEDS}]")


def run(options: argparse.Namespace) -> int:
    """Run the comparison, and print it. Returns the exit code."""
    from rlhf.data.versions.resolve import check

    config = read_recipe(options)
    methods = choose_methods([name.strip() for name in options.methods.split(",")])
    for method in methods:
        with_method(config, method)
    seeds = read_seeds(options, config) or choose_seeds(config.seed, num_seeds=_NUM_SEEDS)
    say_first(config)
    check(config.data, root())
    with flow_environment(options):
        from flows.methods import compare_methods
        from rlhf.runs.methods import MethodsFailedError, method_tables

        failure = None
        try:
            report = compare_methods(config, list(methods), list(seeds))
        except MethodsFailedError as error:
            failure, report = error, error.report
    if options.json:
        print_json(report.model_dump(mode="json"))
    else:
        from rlhf.cli.console import print_ui_commands
        from rlhf.tracking.client import run_url

        _print_tables(method_tables(report))
        print_ui_commands(run_url(report.run_id))
    if failure is not None:
        say(f"rlhf: error: {failure}", file=sys.stderr)
    return failure.exit_code if failure else 0


def _print_tables(tables: list[list[list[str]]]) -> None:
    console = TextConsole()
    for header, *rows in tables:
        shown = Table(*header)
        for row in rows:
            shown.add_row(*row)
        console.print(shown)

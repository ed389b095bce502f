"""`rlhf run`: a whole recipe, with one seed or several."""

import argparse
import sys

from rlhf.cli.recipe import (
    SETTINGS_HELP,
    add_note,
    add_recipe,
    flow_environment,
    print_json,
    print_result,
    read_recipe,
    say_first,
)
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.seeds import choose_seeds, parse_num_seeds, parse_seeds
from rlhf.errors import ConfigError
from rlhf.paths import root
from rlhf.stages import attempt_names
from rlhf.text.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        f"Run all stages of a recipe; what an earlier run made and nothing has changed is used again. {SETTINGS_HELP}"
    )
    parser.usage = (
        "rlhf run [--help] [--json] CONFIG [--note TEXT] [--seeds LIST | --num-seeds N] [--SECTION.SETTING VALUE ...]"
    )
    add_recipe(parser)
    add_note(parser)
    group = parser.add_argument_group(
        "several seeds",
        "A run for each seed, one after the other, and what they come to: means with an interval over seeds. The same "
        "command goes on with what was killed or failed.",
    )
    add_seeds(group, "how many, from the recipe's seed on")


def add_seeds(group: argparse._ArgumentGroup, num_seeds_help: str) -> None:
    """Add what says which seeds."""
    group.add_argument("--seeds", metavar="LIST", help="the seeds, as in 11,12,13")
    group.add_argument("--num-seeds", metavar="N", help=num_seeds_help)


def run(options: argparse.Namespace) -> int:
    """Run the recipe, and print what came of it. Returns the exit code."""
    from rlhf.data.versions.resolve import check

    config = read_recipe(options)
    seeds = read_seeds(options, config)
    say_first(config)
    check(config.data, root())
    if seeds:
        return _run_group(config, seeds, options)
    with flow_environment(options, config, attempt_names(config)):
        from flows.pipeline import rlhf_pipeline

        report = rlhf_pipeline(config)
    print_result(report, options)
    return 0


def read_seeds(options: argparse.Namespace, config: PipelineConfig) -> tuple[int, ...]:
    """The seeds of a group; none where one run was asked for."""
    if options.seeds is None and options.num_seeds is None:
        return ()
    if options.seeds is not None and "seed" in options:
        raise ConfigError(
            "--seed and --seeds are both given; leave --seed away, or give --num-seeds in place of --seeds"
        )
    seeds = None if options.seeds is None else parse_seeds(options.seeds)
    return choose_seeds(config.seed, seeds, None if options.num_seeds is None else parse_num_seeds(options.num_seeds))


def _run_group(config: PipelineConfig, seeds: tuple[int, ...], options: argparse.Namespace) -> int:
    """Run all seeds, and print what they came to, with those that failed. Returns the exit code."""
    with flow_environment(options, stages=attempt_names(config)):
        from flows.seeds import run_seeds
        from rlhf.runs.groups import SeedsFailedError

        failure = None
        try:
            report = run_seeds(config, list(seeds))
        except SeedsFailedError as error:
            failure, report = error, error.report
    if options.json:
        print_json(report.model_dump(mode="json"))
    else:
        from rlhf.cli.console import print_group, print_ui_commands
        from rlhf.tracking.client import run_url

        print_group(report)
        print_ui_commands(run_url(report.run_id))
    if failure is not None:
        say(f"rlhf: error: {failure}", file=sys.stderr)
    return failure.exit_code if failure else 0

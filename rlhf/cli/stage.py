"""`rlhf stage`: one stage, on the outputs of earlier runs."""

import argparse

from rlhf.cli.recipe import SETTINGS_HELP, add_note, add_recipe, flow_environment, print_result, read_recipe, say_first
from rlhf.stages import STAGES, pipeline_stages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the stages, and what each takes."""
    stages = parser.add_subparsers(title="stages", required=True, metavar="STAGE")
    for spec in pipeline_stages():
        stage = stages.add_parser(spec.command, allow_abbrev=False)
        stage.description = f"{spec.summary_alone} {SETTINGS_HELP}"
        flags = [STAGES[name].flag for name in spec.inputs]
        named = "".join(f" {flag} ID" for flag in flags)
        stage.usage = f"rlhf stage {spec.command} [--help] [--json] CONFIG{named} [--SECTION.SETTING VALUE ...]"
        stage.set_defaults(stage=spec.name, parser=stage)
        if flags:
            stage.add_argument(
                "--run", metavar="ID", help="MLflow run of an earlier pipeline, for all that is not named"
            )
        for flag in flags:
            stage.add_argument(
                flag, metavar="ID", help="MLflow run of that stage, or of a pipeline that it was part of"
            )
        add_recipe(stage)
        add_note(stage)


def run(options: argparse.Namespace) -> None:
    """Run the stage, and print what came of it."""
    runs = earlier_runs(options)
    config = read_recipe(options)
    say_first(config)
    with flow_environment(options):
        from flows.stages import STAGE_FLOWS

        report = STAGE_FLOWS[options.stage](config, **runs)
    print_result(report, options)


def earlier_runs(options: argparse.Namespace) -> dict[str, str]:
    """The runs whose outputs the stage reads, by the flow's argument; `--run` stands for all that are not named."""
    inputs = [STAGES[name] for name in STAGES[options.stage].inputs]
    runs = {given.run_argument: getattr(options, given.run_argument) or options.run for given in inputs}
    for given in inputs:
        if runs[given.run_argument] is None:
            options.parser.error(f"the following arguments are required: {given.flag} (or --run for all earlier runs)")
    return runs

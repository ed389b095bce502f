"""`rlhf plan`: what a run would find, compute and cost, before it costs anything."""

import argparse
import json
from typing import TYPE_CHECKING

from rich.table import Table

from rlhf.cli.environment import use_the_store
from rlhf.cli.plan_of_a_run import duration
from rlhf.cli.recipe import SETTINGS_HELP, add_recipe, read_recipe
from rlhf.errors import InputError
from rlhf.paths import root
from rlhf.text.console import TextConsole
from rlhf.text.terminal import say

if TYPE_CHECKING:
    from flows.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "What a run of a recipe would find in the cache, what it would compute and why, how long that took before, and "
        f"what its data will not show. Nothing is computed or written. {SETTINGS_HELP}"
    )
    parser.usage = "rlhf plan [--help] [--json] CONFIG [--SECTION.SETTING VALUE ...]"
    add_recipe(parser)


def run(options: argparse.Namespace) -> None:
    """Print the plan."""
    config = read_recipe(options)
    use_the_store()
    from flows.plan import plan_run
    from rlhf.data.versions.resolve import check
    from rlhf.modeling.run_models import check_models
    from rlhf.modeling.starting_model import described
    from rlhf.modeling.tokenizer import load_tokenizer
    from rlhf.planning.method import described_method
    from rlhf.planning.preflight import preflight
    from rlhf.tracking.artifacts import local_path
    from rlhf.tracking.stores import open_store

    check_models(config.model, config.policy.rewards)
    check(config.data, root())
    try:
        store = open_store()
    except InputError:
        store = None
    plan = plan_run(config, store)
    warnings: list[str] = []
    if plan.data is not None:
        data = local_path(plan.data)
        warnings = list(preflight(data, load_tokenizer(data / "tokenizer"), config))
    if options.json:
        stages = [vars(stage) for stage in plan.stages]
        say(json.dumps({"stages": stages, "seconds": plan.seconds, "unknown": plan.unknown, "warnings": warnings}))
        return
    say(described(config.model))
    say(described_method(config))
    _print(plan)
    if plan.data is None:
        say("The data is looked at once it is prepared: `rlhf stage data CONFIG` does that alone.")
    for warning in warnings:
        TextConsole().print(f"Beware: {warning}.", style="yellow")


def _print(plan: "Plan") -> None:
    table = Table("stage", "state", "time", "why")
    for stage in plan.stages:
        state = "cached" if stage.cached else "computed"
        time = "" if stage.cached else "?" if stage.seconds is None else duration(stage.seconds)
        table.add_row(stage.name, state, time, stage.why)
    TextConsole().print(table)
    to_compute = [stage for stage in plan.stages if not stage.cached]
    if not to_compute:
        say("All of it is cached; the run takes seconds.")
    elif plan.unknown:
        known = f"{duration(plan.seconds)} beside " if plan.seconds else ""
        say(f"Time: {known}{', '.join(plan.unknown)}, which no run here has computed so far.")
    else:
        say(f"Time: about {duration(plan.seconds)}, as long as the same stages took here before.")

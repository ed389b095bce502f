"""`rlhf plan`: what a run would find, compute and cost, before it costs anything."""

import argparse
import json
from typing import TYPE_CHECKING

from rich.table import Table

from rlhf.cli.environment import use_the_store
from rlhf.cli.plan_of_a_run import does_not_fit, duration, in_gb
from rlhf.cli.recipe import SETTINGS_HELP, add_recipe, read_recipe
from rlhf.errors import InputError
from rlhf.paths import root
from rlhf.text.console import TextConsole
from rlhf.text.terminal import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.plan import Plan, PlannedStage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "What a run of a recipe would find in the cache, what it would compute and why, how much memory and time that "
        "takes, and what its data will not show. A recipe that does not fit the machine's memory is an error, which "
        f"says what would. Nothing is computed or written. {SETTINGS_HELP}"
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

    check_models(config.model, config.rewards)
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
        costs = {"seconds": plan.seconds, "unknown": plan.unknown, "memory_mb": plan.memory_mb}
        say(json.dumps({"stages": stages, **costs, "warnings": warnings}))
    else:
        say(described(config.model))
        say(described_method(config))
        _print(plan)
        if plan.data is None:
            say("The data is looked at once it is prepared: `rlhf stage data CONFIG` does that alone.")
        for warning in warnings:
            TextConsole().print(f"Beware: {warning}.", style="yellow")
    if (too_large := does_not_fit(config, plan)) is not None:
        raise InputError(too_large)


def _print(plan: "Plan") -> None:
    table = Table("stage", "state", "time", "memory", "why")
    for stage in plan.stages:
        state = "cached" if stage.cached else "computed"
        time, memory = ("", "") if stage.cached else ("?", "?")
        time = time if stage.seconds is None else duration(stage.seconds)
        memory = memory if stage.memory_mb is None else in_gb(stage.memory_mb)
        table.add_row(stage.name, state, time, memory, stage.why)
    TextConsole().print(table)
    to_compute = [stage for stage in plan.stages if not stage.cached]
    if not to_compute:
        say("All of it is cached; the run takes seconds.")
        return
    if plan.unknown:
        known = f"{duration(plan.seconds)} beside " if plan.seconds else ""
        say(f"Time: {known}{', '.join(plan.unknown)}, which no run here has computed so far.")
    else:
        say(f"Time: about {duration(plan.seconds)}{_by(to_compute)}.")
    if plan.largest is not None and plan.largest.memory_mb is not None:
        say(f"Memory: {in_gb(plan.largest.memory_mb)} at its peak, by the stage {plan.largest.name}.")


def _by(stages: "Sequence[PlannedStage]") -> str:
    """What the figures follow from."""
    guessed = [stage.title for stage in stages if not stage.measured]
    if not guessed:
        return ", by earlier runs on this machine"
    if len(guessed) == len(stages):
        return ", by the model of cost: nothing like it was computed on this machine so far"
    return f"; {', '.join(guessed)} by the model of cost, the others by earlier runs on this machine"

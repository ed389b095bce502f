"""`rlhf reproduce`: a run again, from its id."""

import argparse
import json
import uuid
from typing import TYPE_CHECKING

from rich.table import Table

from rlhf.cli.environment import use_the_store
from rlhf.errors import InputError
from rlhf.stages import repeatable_stages
from rlhf.text.console import TextConsole
from rlhf.text.terminal import say

if TYPE_CHECKING:
    from rlhf.runs.reproduction.verdict import Reproduction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Bring back the code, data and environment of a run, run it from nothing in a working tree of its own, and "
        "say stage by stage whether it came out the same. The exit code is 0 where it is identical or equal within "
        "tolerance, and 1 where it is different."
    )
    parser.add_argument(
        "run", metavar="RUN", help="pipeline run: id, its first characters, RECIPE@champion, RECIPE/3, or champion"
    )
    parser.add_argument(
        "--stage", choices=repeatable_stages(), help="only this stage, from the recorded outputs of those before it"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads in place of those of the run")
    parser.add_argument("--keep", action="store_true", help="keep the working tree even where all is identical")
    parser.add_argument("--dry-run", action="store_true", help="say what would be brought back, and run nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object, and all else on standard error")


def run(options: argparse.Namespace) -> int:
    """Make a run again. Returns the exit code."""
    use_the_store()
    from rlhf.runs.reproduction.reproduce import reproduce
    from rlhf.runs.reproduction.rerun import to_standard_error
    from rlhf.tracking.run_locks import hold_run_lock
    from rlhf.tracking.stores import find_pipeline

    run_id = find_pipeline(options.run)
    if options.dry_run:
        return _print_plan(run_id, options)
    flow_run_id = str(uuid.uuid4())
    with hold_run_lock(flow_run_id):
        result = reproduce(
            run_id,
            flow_run_id,
            to_standard_error,
            stage=options.stage,
            num_threads=options.threads,
            keep=options.keep,
        )
    if options.json:
        say(result.model_dump_json())
    else:
        _print(result)
    return 1 if result.verdict == "different" else 0


def _print_plan(run_id: str, options: argparse.Namespace) -> int:
    from rlhf.runs.reproduction.plan import plan_reproduction
    from rlhf.runs.reproduction.report import plan_rows

    if options.keep:
        raise InputError("--dry-run makes no working tree, so there is none to --keep; leave one of the two away")
    rows = plan_rows(plan_reproduction(run_id, options.stage, options.threads))
    if options.json:
        say(json.dumps({"run_id": run_id, **rows}))
        return 0
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(name, value)
    console = TextConsole(soft_wrap=True)
    console.print(f"Nothing is missing. `rlhf reproduce {run_id}` would bring back and run:")
    console.print(table)
    return 0


def _print(result: "Reproduction") -> None:

    from rlhf.runs.reproduction.report import FIGURE_HEADER, STAGE_HEADER, figure_rows, row
    from rlhf.tracking.client import run_url

    table = Table(*STAGE_HEADER)
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[3:]:
        column.justify = "right"
    for stage in result.stages:
        table.add_row(*row(stage))
    figures = Table(*FIGURE_HEADER)
    for column in figures.columns[1:]:
        column.justify = "right"
    for cells in figure_rows(result):
        figures.add_row(*cells)
    console = TextConsole(soft_wrap=True)
    console.print(table)
    console.print(figures)
    console.print(f"{result.verdict}: {result.reason}")
    console.print(f"{result.seconds_in_all:.0f} s in all; the run took {result.seconds_then:.0f} s")
    if result.kept_in is not None:
        console.print(f"The working tree: {result.kept_in}")
    console.print(f"MLflow: {run_url(result.reproduction_run)}")

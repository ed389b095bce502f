"""`rlhf gc`: room on the disk, by what no run needs."""

import argparse
import json
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from rlhf.cli.environment import use_the_store
from rlhf.text.console import TextConsole
from rlhf.text.terminal import say

if TYPE_CHECKING:
    from rlhf.runs.gc.items import Removable
    from rlhf.runs.gc.plan import Plan

_KEEP_DAYS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "List checkpoints, outputs of stages, copies, results, working trees and versions of the data "
        "that no kept run needs. Kept are champions, candidates and every version with an alias, runs in flight "
        "or waiting for an answer, and runs of the last days, with all that their cached stages came from. Nothing is "
        "removed without --yes."
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--yes", action="store_true", help="remove what is listed")
    choice.add_argument("--dry-run", action="store_true", help="list only, which is what happens without --yes")
    parser.add_argument(
        "--keep-days",
        type=int,
        metavar="N",
        default=_KEEP_DAYS,
        help=f"keep what runs of the last N days need [default: {_KEEP_DAYS}]",
    )
    parser.add_argument(
        "--remote", metavar="NAME", help="clear up this DVC remote too; other clones may rely on what it holds"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Plan, and carry the plan out where that was asked for. Returns the exit code."""
    use_the_store()
    from rlhf.runs.gc.plan import make_plan
    from rlhf.runs.gc.removal import carry_out
    from rlhf.tracking.runs import close_killed_runs

    close_killed_runs()  # what seems to be under way is kept
    plan = make_plan(options.keep_days, options.remote)
    left = carry_out(plan) if options.yes else []
    if options.json:
        say(json.dumps(plan.as_dict() | {"removed": options.yes, "left": [str(item) for item in left]}))
    else:
        _print(plan, left, options.yes)
    return 0


def _print(plan: "Plan", left: "list[Removable]", removed: bool) -> None:

    from rlhf.runs.gc.plan import shown_bytes

    console = TextConsole(soft_wrap=True)
    table = Table("kind", "items", "size", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for kind, items in plan.by_kind().items():
        table.add_row(kind, f"{len(items):,}", shown_bytes(sum(item.num_bytes for item in items)))
        for item in items if not removed else ():
            console.print(Text.assemble((f"{kind}: ", "dim"), item.name, (f"  {shown_bytes(item.num_bytes)}", "cyan")))
            console.print(Text(f"  {item.why}", style="dim"))
    if plan.items:
        console.print(table)
    for note in (*plan.notes, *left):
        console.print(Text(f"note: {note}", style="yellow"))
    size = shown_bytes(plan.num_bytes - sum(item.num_bytes for item in left))
    console.print(Text(f"Kept: {len(plan.needs.kept)} runs, by {plan.needs.because()}"))
    can_go = f"{size} can go; `rlhf gc --yes` removes it." if plan.items else "Nothing can go."
    console.print(Text(f"Removed {size}." if removed else can_go, style="bold"))

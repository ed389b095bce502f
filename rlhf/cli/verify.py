"""`rlhf verify`: is a run as it was logged?"""

import argparse
import json
from typing import TYPE_CHECKING

from rich.text import Text

from rlhf.cli.environment import use_the_store
from rlhf.runs.audit.findings import Ledger
from rlhf.text.console import TextConsole
from rlhf.text.terminal import say

if TYPE_CHECKING:
    from rlhf.runs.audit.target import Target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Hold a run's outputs, reports, settings, tags, data and policy against what was recorded of them. "
        "What differs is named with what it should be and what it is. Exit code 0 where all is as it was logged, 1 "
        "otherwise."
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="run id or the beginning of one, RECIPE@champion, RECIPE/3, champion, or a policy's folder: a copy that "
        "was kept elsewhere shows whether the store was edited",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Verify, and print what was found. Returns the exit code."""
    use_the_store()
    from rlhf.runs.audit.target import find_target
    from rlhf.runs.audit.verify import verify

    named = find_target(options.run)
    ledger = verify(named)
    if options.json:
        version = named.version.version if named.version else None
        say(json.dumps({"run_id": named.run_id, "version": version, **ledger.as_dict()}))
    else:
        _print(named, ledger)
    return 0 if ledger.sound else 1


def _print(named: "Target", ledger: Ledger) -> None:

    console = TextConsole(soft_wrap=True)
    for finding in ledger.findings:
        console.print(Text.assemble((finding.what, "bold red"), (f"  ({finding.where})", "dim")))
        console.print(Text(f"  should be  {finding.expected}"))
        console.print(Text(f"  is         {finding.found}"))
    for note in ledger.notes:
        console.print(Text(f"note: {note}", style="yellow"))
    counted = ", ".join(f"{number:,} {kind}" for kind, number in sorted(ledger.checked.items()))
    console.print(Text(f"Looked at: {counted}"))
    console.print(f"Hashed: {ledger.num_bytes / 1e6:,.1f} MB, {ledger.megabytes_per_second:,.0f} MB/s")
    version = f", version {named.version.version}" if named.version else ""
    verdict = "is as it was logged" if ledger.sound else f"was changed in {len(ledger.findings)} places"
    console.print(Text(f"Run {named.run_id}{version} {verdict}.", style="bold"))

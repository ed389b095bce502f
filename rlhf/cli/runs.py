"""The command `rlhf runs`: the pipeline runs that there are."""

import argparse
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rlhf.cli.environment import use_the_store
from rlhf.errors import InputError
from rlhf.text.terminal import say

if TYPE_CHECKING:
    from rlhf.runs.filters import Filters
    from rlhf.runs.listing import Estimate, Listing, Row

_DEFAULT_LIMIT = 20
_WIDTH = 120
"""Columns on something that is no terminal."""


def add_arguments(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("runs", help="list pipeline runs, with what came of them", allow_abbrev=False)
    parser.description = (
        "List pipeline runs, the newest first, with what came of them. Filters hold together; intervals are of 95%. A "
        "`+` after a commit says that the working tree differed from it."
    )
    parser.set_defaults(command="runs", parser=parser)
    parser.add_argument("--recipe", metavar="NAME", help="of this recipe")
    states = ("running", "waiting", "finished", "failed", "killed")
    parser.add_argument("--state", choices=states, help="waiting: for a person's answer")
    parser.add_argument("--since", metavar="WHEN", help="started since then: 12h, 7d, 2w, or a date in UTC")
    parser.add_argument("--data", metavar="MD5", help="on this version of the data; its first characters will do")
    parser.add_argument("--commit", metavar="HASH", help="of this commit; its first characters will do")
    verdicts = ("promoted", "rejected", "declined", "expired", "outdated")
    parser.add_argument("--verdict", choices=verdicts, help="whose retraining ended so")
    parser.add_argument("--reproducible", nargs="?", const="yes", choices=("yes", "no"), help="that are [or are not]")
    parser.add_argument("--group", metavar="ID", help="of this group of seeds; its first characters will do")
    parser.add_argument(
        "--groups", action="store_true", help="list the groups in place of runs: means, with intervals over seeds"
    )
    parser.add_argument(
        "--metric",
        metavar="'NAME>X'",
        action="append",
        default=[],
        help="such as 'evaluation/win_rate>0.6'; repeatable",
    )
    parser.add_argument(
        "--limit", metavar="N", type=int, default=_DEFAULT_LIMIT, help=f"how many [default: {_DEFAULT_LIMIT}]"
    )
    parser.add_argument("--full-ids", action="store_true", help="whole ids and hashes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> None:
    """List the runs.

    Raises:
        InputError: a filter cannot be read.
    """
    if options.limit < 1:
        raise InputError(f"--limit {options.limit}: expected a whole number at least 1")
    from rlhf.runs.filters import Filters
    from rlhf.runs.listing import list_runs
    from rlhf.tracking.stores import open_store

    filters = Filters(
        recipe=options.recipe,
        state=options.state,
        since=options.since,
        data=options.data,
        commit=options.commit,
        verdict=options.verdict,
        reproducible=None if options.reproducible is None else options.reproducible == "yes",
        metrics=tuple(options.metric),
        group=options.group,
        groups=options.groups,
    )
    filters.conditions(datetime.now(UTC))  # mistakes come before a server is asked
    use_the_store()
    listing = list_runs(open_store(), filters, options.limit)
    if options.json:
        say(json.dumps(_as_json(listing), allow_nan=False))
    else:
        _print(listing, filters, full_ids=options.full_ids)


def _as_json(listing: "Listing") -> dict[str, Any]:
    from dataclasses import asdict

    rows = [asdict(row) | {"started": row.started.isoformat(timespec="seconds")} for row in listing.rows]
    return {"runs": rows, "total": listing.total}


def _print(listing: "Listing", filters: "Filters", *, full_ids: bool) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from rlhf.text.console import TextConsole

    console = TextConsole()
    if not console.is_terminal:
        console.width = _WIDTH + (60 if full_ids else 0)
    if not listing.rows:
        console.print(_nothing(filters))
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for first, second in _HEADER:
        table.add_column(Text.assemble(first, "\n", (second, "dim")), overflow="fold")
    for row in listing.rows:
        styles = {
            "run": "bold",
            "state": _COLOURS.get(row.state, "yellow"),
            "repro": "" if row.reproducible else "yellow",
        }
        table.add_row(
            *(
                Text.assemble((first, styles.get(column, "")), "\n", (second, "dim"))
                for (first, second), (column, _) in zip(_cells(row, full_ids), _HEADER, strict=True)
            )
        )
    console.print(table)
    if filters.groups:
        console.print("Means over seeds, and their 95% intervals over seeds; --group ID lists the runs of one.")
    more = listing.total - len(listing.rows)
    if more:
        console.print(f"{more:,} more; --limit {listing.total} shows all.")


def _nothing(filters: "Filters") -> str:
    from rlhf.runs.filters import Filters

    what = "group" if filters.groups else "run"
    return (
        f"There are no {what}s yet."
        if filters in (Filters(), Filters(groups=True))
        else f"No {what} meets these filters."
    )


_COLOURS = {"finished": "green", "failed": "red", "killed": "red"}
_HEADER = (
    ("run", "started, UTC"),
    ("recipe, seed", "commit, data"),
    ("state", "verdict"),
    ("gold gain", "95%"),
    ("win rate", "95%"),
    ("KL", "accuracy"),
    ("alarms", "group"),
    ("policy", "alias"),
    ("repro", "ducible"),
)


def _cells(row: "Row", full_ids: bool) -> Iterator[tuple[str, str]]:
    """Two lines a column."""
    length = {"id": 32, "commit": 40, "md5": 36} if full_ids else {"id": 8, "commit": 9, "md5": 8}
    commit = (row.commit[: length["commit"]] if row.commit else "no commit") + ("+" if row.dirty else "")
    data = row.data_md5[: length["md5"]] if row.data_md5 else ""
    yield row.run_id[: length["id"]], _day(row.started)
    yield f"{row.recipe}, {row.seed}", f"{commit} {data}".strip()
    yield row.state, row.verdict or ""
    yield _figure(row.gold_gain, "{:+.3f}", "{:+.2f} to {:+.2f}")
    yield _figure(row.win_rate, "{:.1%}", "{:.0%} to {:.0%}")
    yield (f"{row.kl.value:.2f}" if row.kl else ""), (f"{row.reward_accuracy.value:.1%}" if row.reward_accuracy else "")
    yield "\n".join(row.alarms), (row.group or "")[: length["id"]]
    yield f"v{row.policy_version}" if row.policy_version else "", ", ".join(row.aliases)
    yield {True: "yes", False: "no", None: ""}[row.reproducible], ""


def _figure(figure: "Estimate | None", form: str, interval: str) -> tuple[str, str]:
    if figure is None:
        return "", ""
    ends = interval.format(figure.low, figure.high) if figure.low is not None and figure.high is not None else ""
    return form.format(figure.value), ends


def _day(moment: datetime) -> str:
    """Without the year where that is this one."""
    return moment.strftime("%m-%d %H:%M" if moment.year == datetime.now(UTC).year else "%Y-%m-%d")

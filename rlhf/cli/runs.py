"""The command `rlhf runs`: the pipeline runs that there are."""

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from rlhf.cli.environment import use_the_store
from rlhf.errors import InputError
from rlhf.runs.filters import STATES, VERDICTS, Filters
from rlhf.runs.listing import Listing, MetricValue, Row, list_runs
from rlhf.text.console import TextConsole
from rlhf.text.terminal import say
from rlhf.tracking.stores import open_store

_DEFAULT_LIMIT = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "List pipeline runs, the newest first, a line each. A terminal shows the columns that it has room for; a pipe "
        "and --full-ids show all. The gain is that of the gold reward over the SFT policy, the win rate is against it; "
        "intervals are of 95%. Filters hold together. A `+` after a commit says that the working tree differed "
        "from it."
    )
    parser.add_argument("--recipe", metavar="NAME", help="of this recipe")
    parser.add_argument("--state", choices=STATES, help="waiting: for a person's answer")
    parser.add_argument("--since", metavar="WHEN", help="started since then: 12h, 7d, 2w, or a date in UTC")
    parser.add_argument("--data", metavar="MD5", help="on this version of the data; its first characters will do")
    parser.add_argument("--commit", metavar="HASH", help="of this commit; its first characters will do")
    parser.add_argument("--verdict", choices=VERDICTS, help="whose retraining ended so")
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
    parser.add_argument("--full-ids", action="store_true", help="all columns, with whole ids and hashes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> None:
    """List the runs.

    Raises:
        InputError: a filter cannot be read.
    """
    if options.limit < 1:
        raise InputError(f"--limit {options.limit}: expected a whole number at least 1")
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


def _as_json(listing: Listing) -> dict[str, Any]:
    rows = [asdict(row) | {"started": row.started.isoformat(timespec="seconds")} for row in listing.rows]
    return {"runs": rows, "total": listing.total}


def _print(listing: Listing, filters: Filters, *, full_ids: bool) -> None:
    console = TextConsole()
    if not listing.rows:
        console.print(_nothing(filters))
        return
    rows = [_cells(row, full_ids) for row in listing.rows]
    titles = [title for place, title in enumerate(rows[0]) if place < _NUM_ALWAYS or any(row[title] for row in rows)]
    widths = {title: max(map(cell_len, (title, *(row[title] for row in rows)))) for title in titles}
    if console.is_terminal and not full_ids:
        widths = _fitting(widths, console.width)
    console.width = max(console.width, _total(widths))
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for title, width in widths.items():
        justify: Literal["left", "right"] = "right" if title in _NUMBERS else "left"
        table.add_column(title, width=width, no_wrap=True, overflow="ellipsis", justify=justify)
    for cells in rows:
        styles = {"run": "bold", "state": _COLOURS.get(cells["state"], "yellow")}
        table.add_row(*(Text(cells[title], style=styles.get(title, "")) for title in widths))
    console.print(table)
    if filters.groups:
        console.print("Means over seeds, and their 95% intervals over seeds; --group ID lists the runs of one.")
    more = listing.total - len(listing.rows)
    if more:
        console.print(f"{more:,} more; --limit {listing.total} shows all.")


def _fitting(widths: dict[str, int], room: int) -> dict[str, int]:
    """The columns that a terminal has room for. The first six are always shown, with names cut where they must be."""
    shown = dict(list(widths.items())[:_NUM_ALWAYS])
    shown["name"] -= max(0, _total(shown) - room)
    for title, width in list(widths.items())[_NUM_ALWAYS:]:
        if _total(shown | {title: width}) <= room:
            shown[title] = width
    return shown


def _total(widths: dict[str, int]) -> int:
    """The columns of a terminal that the table takes, with two between each and the next."""
    return sum(widths.values()) + 2 * (len(widths) - 1)


def _nothing(filters: Filters) -> str:
    what = "group" if filters.groups else "run"
    return (
        f"There are no {what}s yet."
        if filters in (Filters(), Filters(groups=True))
        else f"No {what} meets these filters."
    )


_COLOURS = {"finished": "green", "failed": "red", "killed": "red"}
_NUM_ALWAYS = 6
_NUMBERS = ("gain", "win", "KL", "accuracy")


def _cells(row: Row, full_ids: bool) -> dict[str, str]:
    """The cells of a run by column, in the order in which people ask for them."""
    length = {"id": 32, "commit": 40, "md5": 36} if full_ids else {"id": 8, "commit": 9, "md5": 8}
    commit = row.commit[: length["commit"]] if row.commit else "no commit"
    return {
        "run": row.run_id[: length["id"]],
        "name": row.name,
        "started UTC": _day(row.started),
        "state": row.state,
        "gain": f"{row.gold_gain.value:+.3f}" if row.gold_gain else "",
        "win": f"{row.win_rate.value:.1%}" if row.win_rate else "",
        "policy": " ".join([row.policy_version, *row.aliases]) if row.policy_version else "",
        "verdict": row.verdict or "",
        "gain, 95%": _interval(row.gold_gain, "{:+.2f} to {:+.2f}"),
        "win, 95%": _interval(row.win_rate, "{:.0%} to {:.0%}"),
        "KL": f"{row.kl.value:.2f}" if row.kl else "",
        "accuracy": f"{row.reward_accuracy.value:.1%}" if row.reward_accuracy else "",
        "alarms": ", ".join(row.alarms),
        "reproducible": {True: "yes", False: "no", None: ""}[row.reproducible],
        "commit": commit + ("+" if row.dirty else ""),
        "data": row.data_md5[: length["md5"]] if row.data_md5 else "",
        "group": (row.group or "")[: length["id"]],
        "recipe": row.recipe,
        "seed": row.seed,
    }


def _interval(estimate: MetricValue | None, form: str) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return form.format(estimate.low, estimate.high)


def _day(moment: datetime) -> str:
    """Without the year where that is this one."""
    return moment.strftime("%m-%d %H:%M" if moment.year == datetime.now(UTC).year else "%Y-%m-%d")

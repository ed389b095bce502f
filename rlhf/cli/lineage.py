"""`rlhf lineage`: what did a policy come from?"""

import argparse
import json
import sys
from pathlib import Path

from rich.text import Text
from rich.tree import Tree

from rlhf.cli.environment import use_the_store
from rlhf.errors import InputError
from rlhf.runs.audit.lineage_graph import Lineage, Node
from rlhf.runs.audit.mermaid import check_figure, draw_lineage
from rlhf.text.console import TextConsole
from rlhf.text.terminal import say

_WIDTH = 160
"""Columns on something that is no terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Follow a policy back to PPO, reward models, SFT, data version, code and base model, across the "
        "runs in which its stages were trained. Exit code 1 where a hash on the way is not what was logged."
    )
    parser.add_argument(
        "run",
        metavar="RUN|MODEL",
        help="run id or the beginning of one, RECIPE@champion, RECIPE/3, champion, or the folder of a policy",
    )
    parser.add_argument("--json", metavar="FILE", help="write it as JSON; - for standard output in place of the tree")
    parser.add_argument(
        "--figure", metavar="FILE", type=Path, help="draw it in Mermaid: a page (.md), or its text alone (.mmd)"
    )
    parser.add_argument(
        "--verify", action=argparse.BooleanOptionalAction, default=True, help="check every hash on the way"
    )


def run(options: argparse.Namespace) -> int:
    """Trace, and show it. Returns the exit code."""
    _check_files(options.json, options.figure)
    use_the_store()
    from rlhf.runs.audit.lineage import trace
    from rlhf.runs.audit.target import find_target

    lineage = trace(find_target(options.run), check=options.verify)
    if options.json is not None:
        _write(json.dumps(lineage.as_dict(), indent=2) + "\n", options.json)
    if options.figure is not None:
        draw_lineage(lineage, options.figure)
    if options.json != "-":
        _print(lineage)
    return 0 if lineage.ledger.sound else 1


def _check_files(json_file: str | None, figure: Path | None) -> None:
    """Refuse before the work, which may hash gigabytes, what nothing can be written to after it."""
    if json_file not in (None, "-") and (not Path(json_file).parent.is_dir() or Path(json_file).is_dir()):
        raise InputError(f"--json {json_file}: give a file in a folder that is there, or - for standard output")
    if figure is not None:
        check_figure(figure)


def _write(text: str, file: str) -> None:
    if file == "-":
        say(text, end="")
    else:
        Path(file).write_text(text, encoding="utf-8")


def _print(lineage: Lineage) -> None:
    console = TextConsole(width=None if sys.stdout.isatty() else _WIDTH)
    tree = Tree(_line(lineage.nodes[lineage.root]))
    _grow(tree, lineage, lineage.root, {lineage.root})
    for node in lineage.of_kind("code"):
        tree.add(_line(node))
    console.print(tree)
    for finding in lineage.ledger.findings:
        console.print(Text.assemble((finding.what, "bold red"), (f"  ({finding.where})", "dim")))
        console.print(Text(f"  should be  {finding.expected}\n  is         {finding.found}"))
    for note in lineage.ledger.notes:
        console.print(Text(f"note: {note}", style="yellow"))
    if lineage.verified:
        ledger = lineage.ledger
        hashed = f"{ledger.num_bytes / 1e6:,.1f} MB hashed at {ledger.megabytes_per_second:,.0f} MB/s"
        verdict = "every hash is as it was logged" if ledger.sound else f"{len(ledger.findings)} are not as logged"
        console.print(Text(f"{hashed}; {verdict}", style="bold"))


def _grow(tree: Tree, lineage: Lineage, name: str, shown: set[str]) -> None:
    """Add what a node was made from; what stands in the tree already is named, and not drawn again."""
    # The deepest first, so that the branch of a node stands where it is reached the long way.
    for source in sorted(lineage.nodes[name].made_from, key=list(lineage.nodes).index):
        node = lineage.nodes[source]
        if source in shown:
            tree.add(Text.assemble((node.title, "dim"), (f" {node.short_hash} (above)", "dim")))
            continue
        shown.add(source)
        _grow(tree.add(_line(node)), lineage, source, shown)


def _line(node: Node) -> Text:
    """Two lines: what it is, and where it is from."""
    colors = {"verified": "green", "changed": "bold red", "not checked": "dim"}
    hashed = f"  {node.hash_name} {node.short_hash}" if node.hash is not None else ""
    first = Text.assemble((node.title, "bold"), (hashed, "cyan"), (f"  {node.state}", colors[node.state]))
    parts = [f"run {node.run_id[:12]}" if node.run_id else "", f"{node.at:%Y-%m-%d %H:%M} UTC" if node.at else ""]
    first.append(Text(f"\n{', '.join(part for part in (*node.details, *parts) if part)}", style="dim"))
    if node.earlier and node.pipeline:
        first.append(Text(f", in the earlier run {node.pipeline[:12]}", style="yellow"))
    return first

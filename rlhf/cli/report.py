"""`rlhf report`: what a run came to, on one page."""

import argparse
from pathlib import Path

from rlhf.cli.environment import use_the_store
from rlhf.errors import InputError
from rlhf.text.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "What a run came to, on one page: the verdict, the figures with their intervals, reward against KL, ten "
        "answers before and after, limitations and cost. The HTML file needs nothing else: send it to anybody."
    )
    parser.add_argument(
        "run", metavar="RUN", help="run id or the beginning of one, RECIPE@champion, RECIPE/3, or champion"
    )
    parser.add_argument("--html", metavar="FILE", type=Path, help="write the page; default: print Markdown")


def run(options: argparse.Namespace) -> None:
    """Print or write the report.

    Raises:
        InputError: the run is not there or has not finished, or the file cannot be written.
    """
    path: Path | None = options.html
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise InputError(f"{path}: cannot be written, since its folder is missing or it is a folder; give a file")
    use_the_store()
    from rlhf.runs.audit.target import find_target
    from rlhf.runs.report.collect import collect
    from rlhf.runs.report.documents import as_html, as_markdown
    from rlhf.tracking.stores import open_store

    report = collect(open_store(), find_target(options.run).run_id)
    if path is None:
        say(as_markdown(report), end="")
        return
    try:
        path.write_text(as_html(report), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); give another file") from None
    say(f"Written: {path}")

"""The command `rlhf compare`: what differs between runs, and whether it is more than noise."""

import argparse
import json
from pathlib import Path

from rlhf.cli.environment import use_the_store
from rlhf.errors import InputError
from rlhf.runs.comparison.compare import Comparison, compare_runs
from rlhf.runs.comparison.markdown import as_markdown
from rlhf.runs.comparison.report import report_sections
from rlhf.runs.comparison.terminal import print_sections
from rlhf.text.terminal import say
from rlhf.tracking.artifact_files import write_files
from rlhf.tracking.stores import open_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Say what differs between pipeline runs in results, stages, code, data, configuration and environment, each of "
        "the others against the first, and whether a difference in results is more than noise. The report is kept as "
        "an artifact of the first run."
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="id of a run, or at least its first 6 characters; RECIPE@champion, RECIPE/3, or champion",
    )
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the report as Markdown")
    parser.add_argument(
        "--html", metavar="FILE", type=Path, help="make a page for browsers, with the curves over one another"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of tables")
    parser.add_argument("--no-log", action="store_true", help="keep no report with the first run")


def run(options: argparse.Namespace) -> None:
    """Compare the runs.

    Raises:
        InputError: a run is not there, or a file cannot be written.
    """
    for path in filter(None, (options.markdown, options.html)):
        if path.is_dir() or not path.parent.is_dir():
            raise InputError(f"{path}: cannot be written, since its folder is missing or it is a folder; give a file")
    use_the_store()
    comparison = compare_runs(open_store(), options.runs)
    report = json.dumps(comparison.as_dict(), indent=2, allow_nan=False) + "\n"
    documents = {"comparison.json": report, "comparison.md": as_markdown(comparison)}
    if options.html is not None:
        from rlhf.runs.comparison.html import as_html

        documents["comparison.html"] = as_html(comparison)
    if not options.no_log:
        contents = {name: text.encode() for name, text in documents.items()}
        write_files(comparison.sides[0].run, comparison.folder, contents)
    for path, name in ((options.markdown, "comparison.md"), (options.html, "comparison.html")):
        if path is not None:
            _write(path, documents[name])
    if options.json:
        say(report, end="")
    else:
        _print(comparison, options)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); give another file") from None


def _print(comparison: Comparison, options: argparse.Namespace) -> None:
    print_sections(report_sections(comparison))
    if not options.no_log:
        say(f"Kept with run {comparison.sides[0].short_id}, among its artifacts, as {comparison.folder}/")
    for path in filter(None, (options.markdown, options.html)):
        say(f"Written: {path}")

"""`rlhf data`: versions of data/, made, checked, compared and passed on."""

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf.data.evaluation_sets import FOLDER as SETS
from rlhf.data.evaluation_sets import check_name, count_rows_of_sets
from rlhf.data.importing.columns import parse_columns
from rlhf.data.importing.detection import FORMATS
from rlhf.data.importing.formats import ImportReport, Sources
from rlhf.data.importing.reading import MAX_DROPPED, SourceOptions
from rlhf.data.schema import validate_folder
from rlhf.data.versions.append import Addition, add_version, check_given, import_version, preview
from rlhf.data.versions.diff import compare_versions
from rlhf.data.versions.history import DataVersion, count_rows, history
from rlhf.data.versions.remotes import pull, push, status
from rlhf.data.versions.repository import git_commands, md5_in, read_dvc_file
from rlhf.data.versions.stores import stores
from rlhf.errors import DataError
from rlhf.files.names import open_regular
from rlhf.paths import configure_environment, root
from rlhf.text.terminal import say

_READ = "JSON Lines, JSON, CSV or TSV (plain or .gz), Parquet, or a hub id"
_EXTRAS = {
    "demonstrations": ("demonstrations", "the chosen responses"),
    "prompts": ("prompts for PPO", "those of the preferences"),
    "labels": ("unpaired feedback", "none"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions, and what each takes."""
    actions = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_making(actions)
    _add_looking(actions)
    for name, words in (
        ("push", "copy the recorded version of data/ to a remote"),
        ("pull", "make data/ the version that data.dvc names, from the cache or a remote"),
    ):
        moving = _command(actions, name, words)
        moving.add_argument("--remote", metavar="NAME", help="a remote of `dvc remote list` [default: DVC's default]")


def run(options: argparse.Namespace) -> None:
    """Do what was asked."""
    configure_environment()
    _ACTIONS[options.action](options)


def _command(actions: "argparse._SubParsersAction[Any]", name: str, words: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=words, allow_abbrev=False)
    parser.description = f"{words[0].upper()}{words[1:]}."
    parser.set_defaults(action=name, parser=parser)
    return parser


def _add_making(actions: "argparse._SubParsersAction[Any]") -> None:
    importing = _command(actions, "import", "make data/ from a file or a Hugging Face data set")
    importing.description = (
        "Turn preferences into data/, track it with DVC, and print the git command that records it. "
        "Rows that cannot be used are left out, counted and named."
    )
    importing.add_argument("path", metavar="PATH", help=_READ)
    importing.add_argument("--split", default="train", help="split of a hub data set [default: train]")
    importing.add_argument("--licence", help="licence of the data, for the datasheet")
    importing.add_argument("--guidelines", metavar="FILE", type=Path, help="annotation guidelines, for the datasheet")
    importing.add_argument("--replace", action="store_true", help="replace other data in data/")
    adding = _command(actions, "add", "add feedback to data/ as a new version")
    adding.description = (
        "Add the rows that data/ does not hold yet, say in its datasheet what came and from where, track the new "
        "version with DVC, and print the git command that records it."
    )
    adding.add_argument("path", metavar="PATH", nargs="?", help=f"preferences: {_READ}")
    for making in (importing, adding):
        _add_reading(making)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how files are read."""
    known = f"one of {', '.join(FORMATS[1:])}; docs/importing.md has them"
    parser.add_argument(
        "--format", choices=FORMATS, metavar="FORMAT", default="auto", help=f"form of the rows, {known} [default: auto]"
    )
    parser.add_argument(
        "--columns",
        metavar="ROLE=COLUMN,...",
        help="what the columns of a file of your own hold, such as prompt=q,chosen=better,rejected=worse, "
        "verdict=label:0=first,1=second, or ignored=score",
    )
    for kind, (what, default) in _EXTRAS.items():
        parser.add_argument(f"--{kind}", metavar="PATH", help=f"{what} [default: {default}]")
        parser.add_argument(f"--{kind}-format", choices=FORMATS, metavar="FORMAT", help="as --format, of that file")
        parser.add_argument(f"--{kind}-columns", metavar="ROLE=COLUMN,...", help="as --columns, of that file")
    parser.add_argument(
        "--evaluation",
        metavar="[NAME=]PATH",
        action="append",
        default=[],
        help="evaluation set of which nothing is learned: AdvBench, XSTest, or rows as docs/how-to/safety-sets.md has "
        "them; may be given again [default of NAME: the file's]",
    )
    parser.add_argument(
        "--max-dropped",
        metavar="SHARE",
        type=float,
        default=MAX_DROPPED,
        help=f"share of a file's rows that may be left out because they cannot be read [default: {MAX_DROPPED}]",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be read, and change nothing")


def _sets(options: argparse.Namespace) -> dict[str, str]:
    """The files of evaluation sets by name."""
    sets: dict[str, str] = {}
    for given in options.evaluation:
        name, is_named, path = given.partition("=")
        if not is_named or Path(given).exists():
            name, path = Path(given).name.split(".", maxsplit=1)[0], given
        if check_name(name, f"--evaluation {given}") in sets:
            raise DataError(f"--evaluation: two sets are called {name}; name one of them with NAME=PATH")
        sets[name] = path
    return sets


def _options(options: argparse.Namespace) -> dict[str, SourceOptions]:
    """The options by which each file is read."""
    if not 0 <= options.max_dropped <= 1:
        raise DataError(f"--max-dropped {options.max_dropped}: this is no share; give a number from 0 to 1")
    split = getattr(options, "split", "train")
    given = {"preferences": (options.path, options.format, options.columns, "--columns")}
    for kind in _EXTRAS:
        names = (f"{kind}_format", f"{kind}_columns")
        path, form, columns = (getattr(options, name) for name in (kind, *names))
        given[kind] = (path, form or "auto", columns, f"--{kind}-columns")
    for kind, (path, form, columns, _) in given.items():
        if path is None and (form != "auto" or columns):
            named = "PATH" if kind == "preferences" else f"--{kind}"
            raise DataError(f"a format or columns of {kind} are given, and no file of them; give {named} as well")
    return {
        kind: SourceOptions(form, parse_columns(columns, option), options.max_dropped, split)
        for kind, (path, form, columns, option) in given.items()
        if path is not None
    } | {SETS: SourceOptions(max_dropped=options.max_dropped, split=split)}


def _add_looking(actions: "argparse._SubParsersAction[Any]") -> None:
    validating = _command(actions, "validate", "check every row of a data folder")
    validating.add_argument("path", metavar="PATH", nargs="?", type=Path, help="data folder [default: data/]")
    state = _command(actions, "status", "say where data/ stands: recorded, committed, cached, on the remote")
    log = _command(actions, "log", "list the versions of data/ in git's history")
    comparing = _command(actions, "diff", "say what changed between two versions of data/")
    version = "git revision, tag, or the beginning of an md5"
    comparing.add_argument("old", metavar="A", help=version)
    comparing.add_argument("new", metavar="B", nargs="?", help=f"{version} [default: data/ as it is]")
    for looking in (state, log, comparing):
        looking.add_argument("--json", action="store_true", help="print one JSON object")


def _import(options: argparse.Namespace) -> None:

    _quiet_dvc()
    extras = {kind: getattr(options, kind) for kind in _EXTRAS}
    sources = Sources(options.path, **extras, options=_options(options), evaluation=_sets(options))
    guidelines = _text_of(options.guidelines)
    if options.dry_run:
        _tell(preview(sources))
        say("This was a dry run: nothing has changed")
        return
    report = import_version(
        root(), sources, licence=options.licence, guidelines=guidelines, replace=options.replace, tell=_tell
    )
    say(f"data/ is tracked by DVC, md5 {md5_in(read_dvc_file(root()))}")
    say(f"To record this version: {git_commands(f'Import {report.sources[0].source.name}')}")


def _tell(report: ImportReport) -> None:
    """Print what was read, before anything is replaced."""
    say(report.summary, flush=True)


def _add(options: argparse.Namespace) -> None:

    _quiet_dvc()
    how = _options(options)
    given = {"preferences": options.path, **{kind: getattr(options, kind) for kind in _EXTRAS}}
    additions = [Addition(path, kind, how[kind]) for kind, path in given.items() if path is not None]
    additions += [Addition(path, f"{SETS}/{name}", how[SETS]) for name, path in _sets(options).items()]
    check_given(additions)
    added = add_version(
        root(), additions, tell=lambda notes: say("\n".join(notes), flush=True), dry_run=options.dry_run
    )
    if options.dry_run:
        say("This was a dry run: nothing has changed")
    elif added.version is None:
        say("Nothing of it is new; data/ stays as it is")
    else:
        say(f"data/ is tracked by DVC, md5 {added.version.md5}")
        names = ", ".join(Path(addition.path).name for addition in additions)
        say(f"To record this version: {git_commands(f'Add {names}')}")


def _validate(options: argparse.Namespace) -> None:

    folder = options.path or root() / "data"
    for kind, count in (validate_folder(folder) | count_rows_of_sets(folder)).items():
        say(f"{folder / kind}.jsonl: {count} rows, all as they should be")


def _status(options: argparse.Namespace) -> None:

    state = status(root())
    if options.json:
        say(json.dumps(asdict(state)))
        return
    words = {True: "yes", False: "no"}
    say(f"version in data.dvc: {state.md5 or 'none'}")
    for name in ("present", "equal", "committed", "cached"):
        say(f"{_QUESTIONS[name]}: {words[getattr(state, name)]}")
    for remote, answer in state.remotes.items():
        say(f"on the remote {remote}: {answer}")
    say("\n".join(f"Next: {step}" for step in state.next) or "Nothing is left to do")


_QUESTIONS = {
    "present": "data/ is there",
    "equal": "it is that version",
    "committed": "git has that data.dvc",
    "cached": "DVC's cache holds it",
}


def _log(options: argparse.Namespace) -> None:

    versions = history(root())
    with stores(root()) as caches:
        rows = {md5: count_rows(md5, caches) for md5 in dict.fromkeys(version.md5 for version in versions)}
    if options.json:
        say(json.dumps([vars(v) | {"date": v.date.isoformat(), "rows": rows[v.md5]} for v in versions]))
    elif not versions:
        say("git records no version of data/ yet; see `rlhf data status`")
    else:
        _print_log(versions, rows)


def _print_log(versions: list[DataVersion], rows: dict[str, dict[str, int] | None]) -> None:
    for version in versions:
        counts = rows[version.md5]
        held = (
            ", ".join(f"{count} {kind}" for kind, count in counts.items()) if counts else "rows not counted: not cached"
        )
        say(f"{version.commit[:10]}  {version.date:%Y-%m-%d %H:%M}  md5 {version.md5[:10]}  {version.subject}")
        say(f"    {held}" + (f"; {version.desc}" if version.desc else ""))


def _diff(options: argparse.Namespace) -> None:

    difference = compare_versions(root(), options.old, options.new)
    say(json.dumps(difference.as_json()) if options.json else difference.as_markdown())


def _push(options: argparse.Namespace) -> None:
    from rlhf.cli.progress_view import progress_view

    _quiet_dvc()
    with progress_view():
        target, count = push(root(), options.remote)
    say(f"{target}: {count} files copied" if count else f"{target} has all of it already")


def _pull(options: argparse.Namespace) -> None:
    from rlhf.cli.progress_view import progress_view

    _quiet_dvc()
    with progress_view():
        changed = pull(root(), options.remote)
    say("data/ is the version that data.dvc names" + ("" if changed else ", and was before"))


def _quiet_dvc() -> None:
    """DVC would name another git command, and show bars of its own."""
    import dvc.logger  # noqa: F401  # sets its level when it is imported

    logging.getLogger("dvc").setLevel(logging.WARNING)


def _text_of(path: Path | None) -> str | None:
    if path is None:
        return None

    try:
        with open_regular(path) as file:
            return file.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); give a UTF-8 file") from None


_ACTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "import": _import,
    "add": _add,
    "validate": _validate,
    "status": _status,
    "log": _log,
    "diff": _diff,
    "push": _push,
    "pull": _pull,
}

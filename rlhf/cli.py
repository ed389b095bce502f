"""The command `rlhf`. Anything heavy is imported once it is needed, so that help and mistakes come at once."""

import argparse
import json
import logging
import math
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from itertools import zip_longest
from pathlib import Path
from types import FrameType

from rlhf.config import PipelineConfig
from rlhf.configuration import Setting, flag_of, load_config, nearest, settings
from rlhf.data.formats import FORMATS, import_dataset
from rlhf.data.schema import validate_folder
from rlhf.errors import ConfigError, DataError, RLHFError
from rlhf.project import configure_environment, root
from rlhf.references import PipelineReport

_ALIASES = {"--allow-dirty-data": "--data.allow-dirty-data"}
_METAVARS = {"integer": "N", "number": "X", "string": "TEXT", "boolean": "true|false", "section": "none"}
_SETTINGS_HELP = (
    "Any setting of the recipe can be given as a flag: --ppo.kl-coef 0.05 --seed 1. `none` clears an optional one."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows `rlhf`; the process's own where None.

    Returns:
        The exit code: 0, or 130 after Ctrl-C, or that of the error, which for a mistake in what was given is 2.

    Raises:
        SystemExit: after help (0), a mistake in the form of the command (2), or SIGTERM (143).
    """
    given = _in_kebab_case(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    try:
        with _terminable():
            options, unknown = parser.parse_known_args(given)
            _refuse_unknown(unknown, options)
            code: int = options.command(options)
    except RLHFError as error:
        print(f"rlhf: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("rlhf: interrupted; the same command goes on from the last checkpoints", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rlhf", description="Align a language model with human preferences.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="run all stages of a recipe", allow_abbrev=False))
    _add_data(commands.add_parser("data", help="import or check data"))
    ui = commands.add_parser("ui", help="print the commands that open Prefect's and MLflow's user interfaces")
    ui.set_defaults(command=_ui, parser=ui)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"Run all stages of a recipe; what an earlier run made and nothing has changed is used again. {_SETTINGS_HELP}"
    )
    parser.usage = "rlhf run [--help] [--json] CONFIG [--SECTION.SETTING VALUE ...]"
    parser.set_defaults(command=_run, parser=parser)
    _add_recipe(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    importing = commands.add_parser(
        "import",
        help="make data/ from a file or a Hugging Face data set",
        description="Turn preferences into data/, track it with DVC, and print the git command that records it. "
        "Rows that cannot be used are left out, counted and named.",
    )
    importing.set_defaults(command=_import_data, parser=importing)
    importing.add_argument("path", metavar="PATH", help="JSON Lines, JSON, CSV (plain or .gz), Parquet, or a hub id")
    importing.add_argument("--format", choices=FORMATS, default="auto", help="convention of the rows [default: auto]")
    importing.add_argument("--demonstrations", metavar="PATH", help="demonstrations [default: the chosen responses]")
    importing.add_argument("--prompts", metavar="PATH", help="prompts for PPO [default: those of the preferences]")
    importing.add_argument("--split", default="train", help="split of a hub data set [default: train]")
    importing.add_argument("--licence", help="licence of the data, for the datasheet")
    importing.add_argument("--guidelines", metavar="FILE", type=Path, help="annotation guidelines, for the datasheet")
    importing.add_argument("--replace", action="store_true", help="replace other data in data/")
    validating = commands.add_parser("validate", help="check every row of a data folder")
    validating.set_defaults(command=_validate_data, parser=validating)
    validating.add_argument("path", metavar="PATH", nargs="?", type=Path, help="data folder [default: data/]")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    """CONFIG, --json, and a flag for every setting, by section."""
    parser.add_argument(
        "config", metavar="CONFIG", type=Path, help="YAML file of the recipe, such as configs/demo.yaml"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object at the end, and all else on standard error"
    )
    groups = {"": parser.add_argument_group("settings of the whole run")}
    for setting in settings().values():
        section, dot, _ = setting.name.partition(".")
        if setting.kind == "section" and not dot:
            groups[section] = parser.add_argument_group(section, setting.help)
        elif setting.kind != "section" or setting.optional:
            _add_setting(groups[section if dot else ""], setting)


def _add_setting(group: argparse._ArgumentGroup, setting: Setting) -> None:
    aliases = [alias for alias, flag in _ALIASES.items() if flag == setting.flag]
    default = (
        "none"
        if setting.default is None
        else str(setting.default).lower()
        if setting.kind == "boolean"
        else setting.default
    )
    expected = "none; or set what is in it" if setting.kind == "section" else setting.expected
    group.add_argument(
        setting.flag,
        *aliases,
        dest=setting.name,
        metavar="|".join(setting.choices) or _METAVARS.get(setting.kind, "YAML"),
        default=argparse.SUPPRESS,
        help=f"{setting.help} [{expected}; default: {default}]".replace("%", "%%"),
    )


def _run(options: argparse.Namespace) -> int:
    config = _config(options)
    configure_environment()
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        from flows.pipeline import rlhf_pipeline
        from rlhf.console import progress_bars

        with progress_bars():
            report = rlhf_pipeline(config)
    _print_report(report, options.json)
    return 0


def _import_data(options: argparse.Namespace) -> int:
    configure_environment()
    from rlhf.data.source import git_commands, track

    report = import_dataset(
        options.path,
        root() / "data",
        options.format,
        demonstrations=options.demonstrations,
        prompts=options.prompts,
        licence=options.licence,
        guidelines=_text_of(options.guidelines),
        split=options.split,
        replace=options.replace,
    )
    print(report.summary)
    import dvc.logger  # noqa: F401  # sets its level when it is imported

    logging.getLogger("dvc").setLevel(logging.WARNING)  # it would name another git command
    print(f"data/ is tracked by DVC, md5 {track(root(), desc=f'Imported from {report.sources[0].name}')}")
    print(f"To record this version: {git_commands(f'Import {report.sources[0].name}')}")
    return 0


def _validate_data(options: argparse.Namespace) -> int:
    folder = options.path or root() / "data"
    for kind, count in validate_folder(folder).items():
        print(f"{folder / kind}.jsonl: {count} rows, all as they should be")
    return 0


def _ui(options: argparse.Namespace) -> int:
    from rlhf.console import print_ui_commands

    print_ui_commands()
    return 0


def _text_of(path: Path | None) -> str | None:
    try:
        return path.read_text(encoding="utf-8") if path else None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); give a UTF-8 file") from None


def _config(options: argparse.Namespace) -> PipelineConfig:
    return load_config(options.config, {name: value for name, value in vars(options).items() if name in settings()})


def _print_report(report: PipelineReport, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.model_dump(mode="json") | {"metrics": _finite(report.metrics)}, allow_nan=False))
        return
    from rlhf.console import print_report, print_ui_commands

    print_report(report)
    print_ui_commands()


def _finite(metrics: dict[str, float]) -> dict[str, float | None]:
    """JSON knows neither NaN nor infinity."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _in_kebab_case(arguments: Sequence[str]) -> list[str]:
    """Flags may come in snake case, and a true-or-false flag without its value means true."""
    switches = {setting.flag for setting in settings().values() if setting.kind == "boolean"} | set(_ALIASES)
    result: list[str] = []
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        flag, equals, value = argument.partition("=")
        if flag.startswith("--"):
            flag = flag.replace("_", "-")
        if flag in switches and not equals and following.lower() not in ("true", "false"):
            equals, value = "=", "true"
        result.append(flag + equals + value)
    return result


def _refuse_unknown(unknown: Sequence[str], options: argparse.Namespace) -> None:
    flags = [argument.partition("=")[0] for argument in unknown if argument.startswith("--")]
    if flags and hasattr(options, "config"):
        known = ["--json", *_ALIASES, *(flag_of(name) for name in settings())]
        raise ConfigError(f"{flags[0]} is not a setting; the nearest known one is {nearest(flags[0], known)}")
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM unwinds the stack, so that whoever holds something can put it away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())

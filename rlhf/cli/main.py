"""The command `rlhf`. Anything heavy is imported once it is needed, so that help and mistakes come at once."""

import argparse
import json
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from types import FrameType

from rlhf.cli import compare, data, gc, lineage, reproduce, runs, verify
from rlhf.cli.parser import parse
from rlhf.config.loading import load_config, settings
from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import ConfigError, check_name
from rlhf.paths import configure_environment, others_kept_out, root
from rlhf.references import PipelineReport, StageReport
from rlhf.services.postgresql import DATABASE_VARIABLE, has_password
from rlhf.services.settings import (
    PASSWORD_VARIABLE,
    USER,
    LoginFrom,
    Services,
    last_address,
    make_password,
    password_file,
    running,
)
from rlhf.stages import STAGES
from rlhf.text.terminal import make_logs_printable, say

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows `rlhf`; the process's own where None.

    Returns:
        The exit code: 0, or that of a command which found what it looked at not as it should be (1), or 130 after
        Ctrl-C, or 141 where nobody reads the output any more, or that of the error, which for a mistake in what was
        given or something that a library cannot do is 2, and for a defect of this project 1.

    Raises:
        SystemExit: after help (0), a mistake in the form of the command (2), SIGTERM (143) or SIGHUP (129).
    """
    make_logs_printable()
    try:
        with _terminable(), others_kept_out():
            options = parse(sys.argv[1:] if arguments is None else arguments)
            check_name(str(root()), "the project's folder")
            code = _COMMANDS[options.command](options) or 0
            sys.stdout.flush()
            return code
    except BrokenPipeError as error:
        return _end_of_output() or _explain(error)
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from the last checkpoints" if _has_checkpoints(arguments) else ""
        return _fail(f"interrupted{goes_on}", _INTERRUPTED)
    except Exception as error:  # noqa: BLE001  # a traceback is for a file, and not for the person
        return _explain(error)


def _explain(error: Exception) -> int:
    """Of a library or the system, or a defect."""
    from rlhf.failures import describe_failure

    return _fail(*describe_failure(error))


def _fail(message: str, exit_code: int) -> int:
    """The terminal may be gone; the exit code says it then."""
    with suppress(OSError):
        say(f"rlhf: {'' if exit_code == _INTERRUPTED else 'error: '}{message}", file=sys.stderr)
    return exit_code


def _end_of_output() -> int:
    """The exit code where it is the standard output that nobody reads any more, as after `| head`; otherwise 0."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # What could not be written would be tried once more as the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return 0


def _has_checkpoints(arguments: Sequence[str] | None) -> bool:
    given = sys.argv[1:] if arguments is None else arguments
    return given[:1] in (["run"], ["stage"])


def _run(options: argparse.Namespace) -> int:
    config = _config(options)
    seeds = _seeds(options, config)
    _say_first(config)
    _check_data(config)
    if seeds:
        return _run_group(config, seeds, options)
    with _running(options):
        from flows.pipeline import rlhf_pipeline

        report = rlhf_pipeline(config)
    _print_pipeline(report, options)
    return 0


def _seeds(options: argparse.Namespace, config: PipelineConfig) -> tuple[int, ...]:
    """Those of a group; none where one run was asked for."""
    if options.seeds is None and options.num_seeds is None:
        return ()
    from rlhf.config.seeds import choose_seeds, parse_num_seeds, parse_seeds

    if options.seeds is not None and "seed" in options:
        raise ConfigError(
            "--seed and --seeds are both given; leave --seed away, or give --num-seeds in place of --seeds"
        )
    seeds = None if options.seeds is None else parse_seeds(options.seeds)
    return choose_seeds(config.seed, seeds, None if options.num_seeds is None else parse_num_seeds(options.num_seeds))


def _run_group(config: PipelineConfig, seeds: tuple[int, ...], options: argparse.Namespace) -> int:
    """Run all seeds, and print what they came to, with those that failed. Returns the exit code."""
    with _running(options):
        from flows.seeds import run_seeds
        from rlhf.runs.groups import SeedsFailedError

        failure = None
        try:
            report = run_seeds(config, list(seeds))
        except SeedsFailedError as error:
            failure, report = error, error.report
    if options.json:
        say(_as_json(report.model_dump(mode="json")))
    else:
        from rlhf.cli.console import print_group, print_ui_commands
        from rlhf.tracking.client import run_url

        print_group(report)
        print_ui_commands(run_url(report.run_id))
    return 0 if failure is None else _fail(str(failure), failure.exit_code)


def _run_stage(options: argparse.Namespace) -> None:
    config = _config(options)
    _say_first(config)
    with _running(options):
        from flows.stages import STAGE_FLOWS

        runs = [STAGES[name].run_argument for name in STAGES[options.stage].inputs]
        report = STAGE_FLOWS[options.stage](config, **{run: getattr(options, run) for run in runs})
    if isinstance(report, PipelineReport):
        _print_pipeline(report, options)
    else:
        _print_stage(report, options)


@contextmanager
def _running(options: argparse.Namespace) -> Iterator[None]:
    """What a flow needs around it: environment, server, progress; with --json, no word on standard output.

    The servers are those of `rlhf up` where it is up.
    """
    services = running()
    if services is not None and "PREFECT_API_URL" not in os.environ and "MLFLOW_TRACKING_URI" not in os.environ:
        _be_client_of(services)
    configure_environment()
    logging.raiseExceptions = False  # what becomes of a log line that Prefect does not take is nothing for the terminal
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        from flows.servers.temporary import temporary_server
        from rlhf.cli.console import progress_bars
        from rlhf.runs.names import started_from

        with temporary_server(), progress_bars(), started_from(options.config):
            yield


def _config(options: argparse.Namespace) -> PipelineConfig:
    return load_config(options.config, {name: value for name, value in vars(options).items() if name in settings()})


def _say_first(config: PipelineConfig) -> None:
    """What the run starts from, before a server is started for it. On standard error, as all that is no result."""
    from rlhf.modeling.run_models import check_models
    from rlhf.modeling.starting_model import described
    from rlhf.rewards.functions import check_installed

    check_installed(config.ppo.rewards)
    check_models(config.model, config.ppo.rewards)
    say(described(config.model), file=sys.stderr, flush=True)


def _check_data(config: PipelineConfig) -> None:
    from rlhf.data.versions.resolve import check

    check(config.data, root())


def _print_pipeline(report: PipelineReport, options: argparse.Namespace) -> None:
    if options.json:
        say(_as_json(report.model_dump(mode="json")))
        return
    from rlhf.cli.console import print_report, print_ui_commands
    from rlhf.tracking.client import run_url

    print_report(report)
    print_ui_commands(run_url(report.run_id))


def _print_stage(report: StageReport, options: argparse.Namespace) -> None:
    if options.json:
        say(report.model_dump_json())
        return
    from rlhf.cli.console import print_stages, print_ui_commands
    from rlhf.tracking.client import run_url

    print_stages([report])
    print_ui_commands(run_url(report.run_id))


def _as_json(report: object) -> str:
    """JSON knows neither NaN nor infinity; null stands for them."""
    return json.dumps(_finite(report), allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _up(options: argparse.Namespace) -> None:
    if options.database and has_password(options.database):
        raise ConfigError(
            f"--database: the address holds a password, and others see a command's arguments; set {DATABASE_VARIABLE} "
            "to the address in place of the flag, and change the password if others use this machine"
        )
    database = options.database or os.environ.get(DATABASE_VARIABLE)
    given = "--database" if options.database else DATABASE_VARIABLE
    login = "none" if options.no_password else _login_from()
    services = Services(options.host, options.prefect_port, options.mlflow_port, database, given, login)
    services.check()
    if services.login_from == "file" and services.password is None:
        made = make_password()
        say(f"A password was made for user {USER}, and is kept in {password_file()}: {made}")
    _be_client_of(services)
    from flows.servers.up import up

    up(services)


def _down(options: argparse.Namespace) -> None:
    _be_client_of(last_address() or Services())
    from flows.servers.up import down

    down()


def _be_client_of(services: Services) -> None:
    """Before Prefect and MLflow are imported: they read the environment once."""
    os.environ.update(services.client_environment())
    configure_environment()


def _ui(options: argparse.Namespace) -> None:
    from rlhf.cli.console import print_ui_commands

    services = running()
    if options.show_password:
        say(_password(services))
        return
    if services is not None:
        _be_client_of(services)
    print_ui_commands()
    if services is not None and services.login is not None:
        say(f"{services.login}; `rlhf ui --show-password` prints it")


def _login_from() -> LoginFrom:
    return "variable" if os.environ.get(PASSWORD_VARIABLE) else "file"


def _password(services: Services | None) -> str:
    """What the servers ask for now, or will at the next start.

    Raises:
        ConfigError: there is none, or this process does not know it.
    """
    asked = services or Services(login_from=_login_from())
    if asked.password is None:
        raise ConfigError(
            {
                "none": "the services were started with --no-password",
                "variable": f"the services ask for what {PASSWORD_VARIABLE} held when they were started; look there",
                "file": "no password was made yet; the first `rlhf up` makes one",
            }[asked.login_from]
        )
    return asked.password


_COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "run": _run,
    "stage": _run_stage,
    "data": data.run,
    "reproduce": reproduce.run,
    "runs": runs.run,
    "compare": compare.run,
    "verify": verify.run,
    "lineage": lineage.run,
    "gc": gc.run,
    "up": _up,
    "down": _down,
    "ui": _ui,
}


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, and a terminal that is closed, unwind the stack, so that whoever holds something can put it away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Under nohup the second is ignored.
    wanted = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, _terminate) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)

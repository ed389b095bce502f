"""The command `rlhf`. Anything heavy is imported once it is needed, so that help and mistakes come at once."""

import argparse
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from types import FrameType

from rlhf.arguments import STAGES, parse
from rlhf.commands import compare, data, gc, lineage, reproduce, runs, verify
from rlhf.config import PipelineConfig
from rlhf.configuration import load_config, settings
from rlhf.errors import InputError, RLHFError, check_name
from rlhf.project import configure_environment, root
from rlhf.references import PipelineReport, StageReport
from rlhf.services import DATABASE_VARIABLE, Services, last_known, running

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
    try:
        with _terminable():
            options = parse(sys.argv[1:] if arguments is None else arguments)
            check_name(str(root()), "the project's folder")
            code = _COMMANDS[options.command](options) or 0
            sys.stdout.flush()
            return code
    except RLHFError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError as error:
        return _end_of_output() or _explain(error)
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from the last checkpoints" if _has_checkpoints(arguments) else ""
        return _fail(f"interrupted{goes_on}", _INTERRUPTED)
    except Exception as error:  # noqa: BLE001  # a traceback is for a file, and not for the person
        return _explain(error)


def _explain(error: Exception) -> int:
    """Of a library or the system, or a defect."""
    from rlhf.failures import explain, keep_traceback, report_defect

    message = explain(error)
    if message is None:
        return _fail(report_defect(error), RLHFError.exit_code)
    keep_traceback(error)
    return _fail(message, InputError.exit_code)


def _fail(message: str, exit_code: int) -> int:
    """The terminal may be gone; the exit code says it then."""
    with suppress(OSError):
        print(f"rlhf: {'' if exit_code == _INTERRUPTED else 'error: '}{message}", file=sys.stderr)
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


def _run(options: argparse.Namespace) -> None:
    config = _config(options)
    _say_first(config)
    _check_data(config)
    with _running(options):
        from flows.pipeline import rlhf_pipeline

        report = rlhf_pipeline(config)
    _print_pipeline(report, options)


def _run_stage(options: argparse.Namespace) -> None:
    config = _config(options)
    _say_first(config)
    with _running(options):
        from flows import stages

        flow = getattr(stages, f"{options.stage.replace('-', '_')}_stage")
        report = flow(config, *(getattr(options, run) for run in STAGES[options.stage]))
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
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        from flows.temporary_server import temporary_server
        from rlhf.console import progress_bars

        with temporary_server(), progress_bars():
            yield


def _config(options: argparse.Namespace) -> PipelineConfig:
    return load_config(options.config, {name: value for name, value in vars(options).items() if name in settings()})


def _say_first(config: PipelineConfig) -> None:
    """What the run starts from, before a server is started for it. On standard error, as all that is no result."""
    from rlhf.bases import check_models
    from rlhf.reward_functions import check_installed
    from rlhf.starting_model import described

    check_installed(config.ppo.rewards)
    check_models(config.model, config.ppo.rewards)
    print(described(config.model), file=sys.stderr, flush=True)


def _check_data(config: PipelineConfig) -> None:
    from rlhf.data.source import check

    check(config.data, root())


def _print_pipeline(report: PipelineReport, options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(report.model_dump(mode="json") | {"metrics": _finite(report.metrics)}, allow_nan=False))
        return
    from rlhf.console import print_report, print_ui_commands
    from rlhf.tracking import run_url

    print_report(report)
    print_ui_commands(run_url(report.run_id))


def _print_stage(report: StageReport, options: argparse.Namespace) -> None:
    if options.json:
        print(report.model_dump_json())
        return
    from rlhf.console import print_stages, print_ui_commands
    from rlhf.tracking import run_url

    print_stages([report])
    print_ui_commands(run_url(report.run_id))


def _finite(metrics: dict[str, float]) -> dict[str, float | None]:
    """JSON knows neither NaN nor infinity."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _up(options: argparse.Namespace) -> None:
    database = options.database or os.environ.get(DATABASE_VARIABLE)
    services = Services(options.host, options.prefect_port, options.mlflow_port, database)
    services.check()
    _be_client_of(services)
    from flows.servers.up import up

    up(services)


def _down(options: argparse.Namespace) -> None:
    _be_client_of(last_known() or Services())
    from flows.servers.up import down

    down()


def _be_client_of(services: Services) -> None:
    """Before Prefect and MLflow are imported: they read the environment once."""
    os.environ.update(services.client_environment())
    configure_environment()


def _ui(options: argparse.Namespace) -> None:
    from rlhf.console import print_ui_commands

    print_ui_commands()


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


if __name__ == "__main__":
    raise SystemExit(main())

"""The command `rlhf`. Anything heavy is imported once it is needed, so that help and mistakes come at once."""

import argparse
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from types import FrameType

from rlhf.arguments import STAGES, parse
from rlhf.commands import compare, data, gc, lineage, reproduce, runs, verify
from rlhf.config import PipelineConfig
from rlhf.configuration import load_config, settings
from rlhf.errors import RLHFError
from rlhf.project import configure_environment
from rlhf.references import PipelineReport, StageReport
from rlhf.services import DATABASE_VARIABLE, Services, last_known, running


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows `rlhf`; the process's own where None.

    Returns:
        The exit code: 0, or that of a command which found what it looked at not as it should be (1), or 130 after
        Ctrl-C, or that of the error, which for a mistake in what was given is 2.

    Raises:
        SystemExit: after help (0), a mistake in the form of the command (2), SIGTERM (143) or SIGHUP (129).
    """
    try:
        with _terminable():
            options = parse(sys.argv[1:] if arguments is None else arguments)
            return _COMMANDS[options.command](options) or 0
    except RLHFError as error:
        print(f"rlhf: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from the last checkpoints" if _has_checkpoints(arguments) else ""
        print(f"rlhf: interrupted{goes_on}", file=sys.stderr)
        return 130


def _has_checkpoints(arguments: Sequence[str] | None) -> bool:
    given = sys.argv[1:] if arguments is None else arguments
    return given[:1] in (["run"], ["stage"])


def _run(options: argparse.Namespace) -> None:
    config = _config(options)
    with _running(options):
        from flows.pipeline import rlhf_pipeline

        report = rlhf_pipeline(config)
    _print_pipeline(report, options)


def _run_stage(options: argparse.Namespace) -> None:
    config = _config(options)
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

"""The command `rlhf`: what every command has in common, from signals to the exit code."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from rlhf.cli.parser import command_module, parse
from rlhf.errors import check_name
from rlhf.paths import others_kept_out, root
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
            code: int = command_module(options.command).run(options) or 0
            sys.stdout.flush()
            return code
    except BrokenPipeError as error:
        return _end_of_output() or _explain(error)
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from the last checkpoints" if _has_checkpoints(arguments) else ""
        return _fail(f"interrupted{goes_on}", _INTERRUPTED)
    except Exception as error:  # noqa: BLE001  # a traceback is for a file, and not for the person
        return _explain(error)
    finally:
        if arguments is None:
            # The process ends. To look once more through all that was imported for what could be freed takes a second.
            gc.freeze()


def _explain(error: Exception) -> int:
    """Tell of an error of a library or the system, or of a defect."""
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


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, and a terminal that is closed, unwind the stack, so that locks and servers are put away."""
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

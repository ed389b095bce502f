"""The run itself: the command line of that time, in a process of its own, on stores of its own."""

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from typing import IO

from rlhf.errors import RLHFError
from rlhf.rl.launchers import drop_launcher_variables
from rlhf.runs.reproduction.plan import ReproductionPlan
from rlhf.runs.reproduction.worktree import CONFIG_FILE
from rlhf.text.terminal import say

_OURS = ("RLHF_", "PREFECT_", "MLFLOW_", "DVC_", "PYTHONPATH")
_LAST_LINES = 15


class RunAgainError(RLHFError):
    """The run did not come to its end this time."""


def run_again(plan: ReproductionPlan, tree: Path, python: Path, inputs: list[str], say: Callable[[str], None]) -> str:
    """Run all stages, or the one that was asked for, from nothing: the tree's stores hold no earlier result.

    Args:
        plan: what is to be made again.
        tree: a project root with code, data and configuration.
        python: the interpreter.
        inputs: flags that name the earlier runs which a single stage reads.
        say: is called with each line that the run says.

    Returns:
        The MLflow run in the tree's own store: of the pipeline, or of the stage.

    Raises:
        RunAgainError: it fails. The message holds its last lines.
    """
    what = ["run"] if plan.stage is None else ["stage", plan.stage.replace("_", "-")]
    drop_launcher_variables()  # the code of that time may not know of them
    command = [str(python), "-m", "rlhf.cli", *what, CONFIG_FILE, *inputs, "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    environment |= {"PYTHONPATH": str(tree), "RLHF_ROOT": str(tree)}
    with subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        last: deque[str] = deque(maxlen=_LAST_LINES)
        # With this thread's context, by which Prefect knows whose log lines they are.
        arguments = (_pass_on, process.stderr, last, say)
        reader = threading.Thread(target=copy_context().run, args=arguments, daemon=True)
        reader.start()
        try:
            output = process.stdout.read()
            process.wait()
        except BaseException:
            process.terminate()  # it closes its books
            process.wait()
            raise
        reader.join()
    if process.returncode:
        lines = "\n".join(f"  {line}" for line in last)
        raise RunAgainError(f"the run did not come to its end (exit code {process.returncode}):\n{lines}")
    return str(json.loads(output)["run_id"])


def _pass_on(stream: IO[str], last: deque[str], say: Callable[[str], None]) -> None:
    for line in stream:
        last.append(line.rstrip())
        with suppress(OSError):  # nobody may be there to read it, and the run has to go on
            say(line.rstrip())


def to_standard_error(line: str) -> None:
    """Print a line of a run on standard error while it runs."""
    say(line, file=sys.stderr)

"""What the command line shows a person: progress while a run is under way, a short table once it is done."""

import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from rlhf.progress import watching
from rlhf.project import root, tracking_database
from rlhf.references import PipelineReport, StageReport

# What people compare runs by: words, metric, and how it is written. Intervals are found by the suffixes _low and _high.
_HEADLINES = (
    ("gold reward, policy", "evaluation/policy_gold", "{:.3f}"),
    ("gold reward, SFT policy", "evaluation/baseline_gold", "{:.3f}"),
    ("gold reward, gain", "evaluation/gold_gain", "{:+.3f}"),
    ("win rate against SFT", "evaluation/win_rate", "{:.1%}"),
    ("hedged, easy questions", "evaluation/policy_hedging_easy", "{:.1%}"),
    ("hedged, hard questions", "evaluation/policy_hedging_hard", "{:.1%}"),
    ("KL to the SFT policy, nats/response", "evaluation/kl", "{:.2f}"),
    ("reward model, held-out accuracy", "reward_audit/accuracy", "{:.1%}"),
)


@contextmanager
def progress_bars() -> Iterator[None]:
    """A bar a stage on standard error; on something that is no terminal, a line at every tenth of a stage."""
    console = Console(stderr=True)
    with _warnings_shown(console):
        if not console.is_terminal:
            with watching(_Lines().show):
                yield
            return
        columns = (
            TextColumn("{task.description:14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress, watching(_Bars(progress).show):
            yield


def print_report(report: PipelineReport) -> None:
    """Stages, the few numbers that matter, the card, and how to see more, on standard output."""
    console = Console(soft_wrap=True)
    print_stages(report.stages)
    console.print(_metric_table(report.metrics))
    for note in _notes(report.metrics):
        console.print(note, style="yellow", highlight=False)
    console.print(f"Model card: {_from_here(report.model_card)}", highlight=False)
    console.print(f"Policy:     {_from_here(report.policy_path)}", highlight=False)


def print_ui_commands(mlflow_page: str | None = None) -> None:
    """How to open the two user interfaces, on standard output.

    Args:
        mlflow_page: where in MLflow to begin; None for the list of experiments.
    """
    for name, (address, command) in {"Prefect": _prefect_ui(), "MLflow": _mlflow_ui(mlflow_page)}.items():
        print(f"{name}: {address}")
        if command is not None:
            print(f"  {command}")


def _prefect_ui() -> tuple[str, str | None]:
    """Its address, and the command that starts it where no server is configured."""
    server = os.environ.get("PREFECT_API_URL")
    if server:
        return server.removesuffix("/api"), None
    home = shlex.quote(os.environ.get("PREFECT_HOME", str(root() / ".prefect")))
    quiet = "PREFECT_SERVER_ANALYTICS_ENABLED=false"
    return "http://127.0.0.1:4200", f"PREFECT_HOME={home} {quiet} {_program('prefect')} server start"


def _mlflow_ui(page: str | None) -> tuple[str, str | None]:
    store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{tracking_database()}"
    is_server = store.startswith(("http://", "https://"))
    # Without the parameter this MLflow opens its page about traces, which is empty.
    experiments = "/#/experiments?workflowType=machine_learning"
    address = page or (store.rstrip("/") if is_server else "http://127.0.0.1:5000") + experiments
    if is_server:
        return address, None
    return address, f"MLFLOW_DISABLE_TELEMETRY=true {_program('mlflow')} ui --backend-store-uri {shlex.quote(store)}"


def _program(name: str) -> str:
    """A program of the environment that this process runs in, as it is typed in the current directory."""
    return shlex.quote(_from_here(str(Path(sys.executable).parent / name)))


def print_stages(stages: Sequence[StageReport]) -> None:
    """How each stage went, on standard output."""
    table = Table("stage", "state", "seconds", "when trained")
    for column in table.columns[2:]:
        column.justify = "right"
    for stage in stages:
        table.add_row(stage.name, stage.state, f"{stage.seconds:.1f}", f"{stage.trained_seconds:.1f}")
    Console(soft_wrap=True).print(table)


def _metric_table(metrics: Mapping[str, float]) -> Table:
    table = Table("measured on held-out data", "value", "95% interval")
    for words, name, form in _HEADLINES:
        if name in metrics:
            ends = [form.format(metrics[end]) for end in (f"{name}_low", f"{name}_high") if end in metrics]
            table.add_row(words, form.format(metrics[name]), " to ".join(ends))
    return table


def _notes(metrics: Mapping[str, float]) -> Iterator[str]:
    """What the figures of a run cannot be read without."""
    if metrics.get("ppo/chosen_update") == 0:
        yield "No checkpoint was better than the SFT policy on held-out evidence, so the policy is the SFT policy."
    num_alarms = int(metrics.get("ppo/num_alarms", 0))
    if num_alarms:
        yield f"{num_alarms} alarm{'s' if num_alarms > 1 else ''} went off in PPO; the model card says which."


def _from_here(path: str) -> str:
    """A path as it is typed in the current directory; an address stays as it is."""
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path


@dataclass(frozen=True)
class _Bars:
    """One bar a stage, made at its first report."""

    progress: Progress
    tasks: dict[str, TaskID] = field(default_factory=dict)

    def show(self, stage: str, done: int, total: int) -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(stage, total=total)
        self.progress.update(self.tasks[stage], completed=done, total=total)


@dataclass(frozen=True)
class _Lines:
    """A line at every tenth of a stage, for logs."""

    tenths: dict[str, int] = field(default_factory=dict)

    def show(self, stage: str, done: int, total: int) -> None:
        tenth = done * 10 // max(total, 1)
        if tenth != self.tenths.get(stage):
            self.tenths[stage] = tenth
            # Not print, which Prefect turns into a log line within a flow.
            sys.stderr.write(f"{stage}: {done} of {total}\n")


@contextmanager
def _warnings_shown(console: Console) -> Iterator[None]:
    """Print this project's warnings above the bars. What the libraries say is in Prefect's log."""
    handler = RichHandler(logging.WARNING, console, show_time=False, show_path=False)
    logging.getLogger("rlhf").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("rlhf").removeHandler(handler)

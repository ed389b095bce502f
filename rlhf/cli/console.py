"""The command line's output for a person: progress while a run is under way, a short table once it is done."""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.table import Table

from rlhf.addresses import public_address
from rlhf.headline import ROWS, figure, verdict
from rlhf.references import GroupReport, PipelineReport, SeedReport, StageReport
from rlhf.services.settings import Services
from rlhf.text.console import TextConsole
from rlhf.text.terminal import say

_WIDTH = 120
"""Columns on something that is no terminal."""
_SEEDS_SIDE_BY_SIDE = 4


def print_report(report: PipelineReport) -> None:
    """Stages, the few numbers that matter, the card, and how to see more, on standard output."""
    console = TextConsole(soft_wrap=True)
    print_stages(report.stages)
    said = verdict(report.metrics)
    if said is not None:
        console.print(" ".join(filter(None, (said, report.refused))), style="bold")
    console.print(_metric_table(report.metrics))
    for note in _notes(report.metrics):
        console.print(note, style="yellow")
    console.print(f"Model card: {_from_here(report.model_card)}")
    console.print(f"Policy:     {_from_here(report.policy_path)}")


def print_group(report: GroupReport) -> None:
    """Print the results of a recipe over several seeds, beside what each seed came to, on standard output."""
    console = TextConsole()
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(_seed_table(report))
    finished = report.finished
    if len(finished) > 1:
        console.print(_statistics_table(report))
    for start in range(0, len(finished), _SEEDS_SIDE_BY_SIDE):
        console.print(_table_by_seed(finished[start : start + _SEEDS_SIDE_BY_SIDE]))
    for note in report.notes:
        console.print(note, style="yellow")


def _seed_table(report: GroupReport) -> Table:
    table = Table("seed", "state", "MLflow run", "policy")
    for seed in report.seeds:
        state = "finished" if seed.error is None else "failed"
        table.add_row(str(seed.seed), state, seed.run_id or "", _from_here(seed.policy_path or ""))
    return table


def _statistics_table(report: GroupReport) -> Table:
    table = Table("measured on held-out data", "mean over seeds", "95% over seeds (t)", "sd", "seeds")
    for words, name, form in ROWS:
        over = report.statistics.get(name)
        if over is not None and over.low is not None and over.high is not None and over.std is not None:
            cells = [form.format(over.mean), f"{form.format(over.low)} to {form.format(over.high)}"]
            table.add_row(words, *cells, form.replace("+", "").format(over.std), str(over.num_seeds))
    return table


def _table_by_seed(seeds: Sequence[SeedReport]) -> Table:
    table = Table("one seed, 95% over test prompts")
    for seed in seeds:
        table.add_column(f"seed {seed.seed}")
    for words, name, form in ROWS:
        if any(name in seed.metrics for seed in seeds):
            table.add_row(words, *("\n".join(filter(None, figure(seed.metrics, name, form))) for seed in seeds))
    return table


def print_ui_commands(mlflow_page: str | None = None, flow_run_id: str | None = None, run_id: str = "") -> None:
    """Print the addresses of the two user interfaces, and the command that opens them where no server is configured.

    Args:
        mlflow_page: where in MLflow to begin; None for the list of experiments.
        flow_run_id: the page in Prefect; None for its first page.
        run_id: the run that the command opens; empty for the servers alone.
    """
    prefect, store = os.environ.get("PREFECT_API_URL"), os.environ.get("MLFLOW_TRACKING_URI")
    mlflow = public_address(store or Services().mlflow_url).rstrip("/")
    if mlflow.startswith(("http://", "https://")):
        # Without the parameter this MLflow opens its page about traces, which is empty.
        mlflow = mlflow_page or f"{mlflow}/#/experiments?workflowType=machine_learning"
    say(f"Prefect: {prefect_page(public_address(prefect or Services().prefect_url).removesuffix('/api'), flow_run_id)}")
    say(f"MLflow: {mlflow}")
    if prefect is None and store is None:
        say(f"  {_program('rlhf')} {f'open {run_id[:8]}' if run_id else 'up'}")


def prefect_page(prefect: str, flow_run_id: str | None) -> str:
    """The address of a flow run in Prefect's UI; of the UI where none is given."""
    return f"{prefect}/runs/flow-run/{flow_run_id}" if flow_run_id else prefect


def _program(name: str) -> str:
    """A program of the environment that this process runs in, as it is typed in the current directory."""
    return shlex.quote(_from_here(str(Path(sys.executable).parent / name)))


def print_stages(stages: Sequence[StageReport]) -> None:
    """Print how each stage went, on standard output."""
    table = Table("stage", "state", "seconds", "when trained")
    for column in table.columns[2:]:
        column.justify = "right"
    for stage in stages:
        table.add_row(stage.name, stage.state, f"{stage.seconds:.1f}", f"{stage.trained_seconds:.1f}")
    TextConsole(soft_wrap=True).print(table)


def _metric_table(metrics: Mapping[str, float]) -> Table:
    table = Table("measured on held-out data", "value", "95% interval")
    for words, name, form in ROWS:
        if name in metrics:
            table.add_row(words, *figure(metrics, name, form))
    return table


def _notes(metrics: Mapping[str, float]) -> Iterator[str]:
    """Notes without which the figures of a run cannot be read."""
    num_alarms = int(metrics.get("policy/num_alarms", 0))
    if num_alarms:
        yield f"{num_alarms} alarm{'s' if num_alarms > 1 else ''} went off in training; the model card says which."


def _from_here(path: str) -> str:
    """A path as it is typed in the current directory; an address stays as it is."""
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path

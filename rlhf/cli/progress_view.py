"""A run as a person watches it: a table of its stages, and beside PPO's bar what it measures.

On something that is no terminal, or a dumb one, there is a line for the beginning and the end of a stage, and every
thirty seconds between them.
"""

import logging
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from rich.console import Group, RenderableType
from rich.live import Live
from rich.logging import RichHandler
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlhf.progress import Event, Measured, Sampled, StageBegan, StageEnded, listening, watching
from rlhf.stages import stage_name
from rlhf.text.console import TextConsole
from rlhf.text.terminal import printable

_FIGURES = (
    ("score", "policy/score_mean", "{:+.2f}"),
    ("KL", "policy/kl_mean", "{:.2f}"),
    ("length", "policy/response_tokens_mean", "{:.0f}"),
    ("entropy", "policy/entropy", "{:.2f}"),
)
"""Words, metric, and how it is written."""
_BLOCKS = "▁▂▃▄▅▆▇█"
_SHOWN_VALUES = 7
_REFRESHES_PER_SECOND = 4
_SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def progress_view(stages: Sequence[str] = ()) -> Iterator[None]:
    """Show on standard error how far a run is, and this project's warnings above it.

    Args:
        stages: of the run, which are shown from the beginning; others once they report.
    """
    console = TextConsole(stderr=True)
    with _warnings_shown(console):
        if not console.is_terminal or console.is_dumb_terminal:
            lines = _Lines()
            with watching(lines.show), listening(lines.hear):
                yield
            return
        view = View({stage: StageRow() for stage in stages})
        live = Live(console=console, get_renderable=view.render, refresh_per_second=_REFRESHES_PER_SECOND)
        with live, watching(view.show), listening(view.hear):
            yield
            view.ended = True


@dataclass
class StageRow:
    """What is known of a stage.

    Attributes:
        state: waiting, running, trained or cached.
        since: when it began, by the monotonic clock; None before that.
        seconds: that it took; None before its end.
        done: steps behind it.
        total: all steps; None where it does not count any.
        first: step and time of its first report.
        goes_on_from: the step of the checkpoint that it began with; None without one.
    """

    state: str = "waiting"
    since: float | None = None
    seconds: float | None = None
    done: int = 0
    total: int | None = None
    first: tuple[int, float] | None = None
    goes_on_from: int | None = None

    def remaining(self, now: float) -> float | None:
        """Seconds, by the mean of all steps that were seen; None where that cannot be said."""
        if self.total is None or self.first is None or self.done <= self.first[0]:
            return None
        return (now - self.first[1]) / (self.done - self.first[0]) * (self.total - self.done)


@dataclass
class View:
    """The table of stages, with what PPO measures below it.

    Attributes:
        rows: by the stages' names, or those of their attempts where a recipe has several, in their order.
        values: the last values of each metric.
        sampled: the last answer to a held-out prompt.
        ended: the run is over.
        running: the attempt that each stage is at.
    """

    rows: dict[str, StageRow]
    values: dict[str, deque[float]] = field(default_factory=dict)
    sampled: Sampled | None = None
    ended: bool = False
    running: dict[str, str] = field(default_factory=dict)

    def show(self, stage: str, done: int, total: int) -> None:
        """A watcher for `rlhf.progress`."""
        row = self.rows.setdefault(self.running.get(stage, stage), StageRow())
        now = time.monotonic()
        row.state, row.since = "running", row.since if row.since is not None else now
        row.done, row.total = done, total
        row.first = row.first or (done, now)

    def hear(self, event: Event) -> None:
        """A listener for `rlhf.progress`."""
        if isinstance(event, Measured):
            for _, name, _ in _FIGURES:
                if name in event.metrics:
                    self.values.setdefault(name, deque(maxlen=_SHOWN_VALUES)).append(event.metrics[name])
            return
        if isinstance(event, Sampled):
            self.sampled = event
        elif isinstance(event, StageBegan):
            if self.rows.get(event.stage, StageRow()).state not in ("waiting", "running"):  # another seed's run
                self.rows = {stage: StageRow() for stage in self.rows}
                self.values.clear()
                self.sampled = None
            self.running[stage_name(event.stage)] = event.stage
            row = self.rows.setdefault(event.stage, StageRow())
            row.state, row.since, row.goes_on_from = "running", time.monotonic(), event.goes_on_from
        elif isinstance(event, StageEnded):
            row = self.rows.setdefault(event.stage, StageRow())
            row.state, row.seconds = event.state, event.seconds

    def render(self) -> RenderableType:
        """The view as it is now. Nothing stays of it at the end: the run's own tables follow."""
        if self.ended or not self.rows:
            return Text("")
        table = Table.grid(padding=(0, 2))
        now = time.monotonic()
        for stage, row in self.rows.items():
            table.add_row(*_cells(stage, row, now))
        figures = [_figure(words, self.values[name], form) for words, name, form in _FIGURES if name in self.values]
        lines = [Text("  ".join(figures))] if figures else []
        if self.sampled is not None:
            lines.append(_sampled(self.sampled))
        return Group(table, *lines)


def _sampled(sampled: Sampled) -> Text:
    """A line of one answer, cut at the terminal's width."""
    words = " ".join(f"after {sampled.step}: {sampled.prompt} -> {sampled.response}".split())
    return Text(printable(words), no_wrap=True, overflow="ellipsis", style="dim")


def _cells(stage: str, row: StageRow, now: float) -> list[RenderableType]:
    style = {"running": "bold", "waiting": "dim"}.get(row.state, "")
    elapsed = row.seconds if row.seconds is not None else now - row.since if row.since is not None else None
    going_on = row.state == "running" and row.goes_on_from is not None
    state = f"going on from {row.goes_on_from}" if going_on else row.state
    cells: list[RenderableType] = [Text(stage, style=style), Text(state, style=style), Text(_time(elapsed))]
    if row.state != "running" or row.total is None:
        return [*cells, "", "", ""]
    remaining = row.remaining(now)
    left = f"{_time(remaining)} left" if remaining is not None else ""
    bar = ProgressBar(total=row.total, completed=row.done, width=20)
    return [*cells, bar, Text(f"{row.done}/{row.total}"), Text(left)]


def _figure(words: str, values: Sequence[float], form: str) -> str:
    low, high = min(values), max(values)
    steps = [round((value - low) / (high - low) * (len(_BLOCKS) - 1)) if high > low else 0 for value in values]
    return f"{words} {''.join(_BLOCKS[step] for step in steps)} {form.format(values[-1])}"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))


@dataclass
class _Lines:
    """Lines for logs.

    Attributes:
        rows: by the stages' names.
        written: when a stage's last line was, by the monotonic clock.
    """

    rows: dict[str, StageRow] = field(default_factory=dict)
    written: dict[str, float] = field(default_factory=dict)

    def show(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        row = self.rows.setdefault(stage, StageRow())
        row.done, row.total, row.first = done, total, row.first or (done, now)
        if stage in self.written and done < total and now - self.written[stage] < _SECONDS_BETWEEN_LINES:
            return
        self.written[stage] = now
        remaining = row.remaining(now) if done < total else None
        self._write(f"{stage}: {done} of {total}" + (f", {_time(remaining)} left" if remaining is not None else ""))

    def hear(self, event: Event) -> None:
        if isinstance(event, StageBegan):
            self.rows.pop(stage_name(event.stage), None)
            self.written.pop(stage_name(event.stage), None)
            if event.goes_on_from is not None:
                self._write(f"{event.stage}: going on from {event.goes_on_from}")

    def _write(self, line: str) -> None:
        # Not print, which Prefect turns into a log line within a flow.
        sys.stderr.write(f"{line}\n")


@contextmanager
def _warnings_shown(console: TextConsole) -> Iterator[None]:
    """Print this project's warnings above the view. What the libraries say is in Prefect's log."""
    handler = RichHandler(logging.WARNING, console, show_time=False, show_path=False)
    logging.getLogger("rlhf").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("rlhf").removeHandler(handler)

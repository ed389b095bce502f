"""How far a run is, told to whoever watches in this process: the command line's view, Prefect's progress artifact."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

Watcher = Callable[[str, int, int], None]


@dataclass(frozen=True)
class StageBegan:
    """A stage of a run is looked for, and computed where it is not found.

    Attributes:
        stage: its name.
        goes_on_from: the step of the checkpoint that a killed attempt has left; None where there is none.
    """

    stage: str
    goes_on_from: int | None = None


@dataclass(frozen=True)
class StageEnded:
    """A stage has its output.

    Attributes:
        stage: its name.
        state: trained or cached.
        seconds: that it took this time.
    """

    stage: str
    state: str
    seconds: float


@dataclass(frozen=True)
class Measured:
    """A stage that is under way has measured something.

    Attributes:
        stage: its name.
        metrics: by their names.
    """

    stage: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Sampled:
    """A stage that is under way has answered a held-out prompt.

    Attributes:
        stage: its name.
        step: after how many steps.
        prompt: the last message.
        response: the answer.
    """

    stage: str
    step: int
    prompt: str
    response: str


Event = StageBegan | StageEnded | Measured | Sampled
Listener = Callable[[Event], None]
_watchers: list[Watcher] = []
_listeners: list[Listener] = []


def tell(event: Event) -> None:
    """Tell all listeners."""
    for listener in _listeners:
        listener(event)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener(event)` on every event within the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def report_progress(stage: str, done: int, total: int) -> None:
    """Tell all watchers.

    Args:
        stage: the stage's name.
        done: steps or updates that are behind it, also those of an attempt that was killed.
        total: steps or updates that there will be.
    """
    for watcher in _watchers:
        watcher(stage, done, total)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Call `watcher(stage, done, total)` on every report within the block."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)

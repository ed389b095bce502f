"""The note that a person gives to a run, for those who look at it later."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated

from pydantic import Field

from rlhf.errors import ConfigError

LONGEST_NOTE = 500
"""Characters."""
Note = Annotated[str, Field(max_length=LONGEST_NOTE)]
_note: ContextVar[str] = ContextVar("note", default="")


@contextmanager
def noted(note: str) -> Iterator[None]:
    """Within the block, runs bear this note.

    Raises:
        ConfigError: it is too long.
    """
    if len(note) > LONGEST_NOTE:
        raise ConfigError(f"the note has {len(note)} characters; shorten it to {LONGEST_NOTE}")
    token = _note.set(note.strip())
    try:
        yield
    finally:
        _note.reset(token)


def current_note() -> str:
    """The note of runs that are opened now; empty where there is none."""
    return _note.get()

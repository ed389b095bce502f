"""The code of a host, held against that of another: stages that pass outputs to each other are of one version."""

import hashlib
from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rlhf.errors import ConfigError
from rlhf.files.hashing import sha256
from rlhf.paths import source_root
from rlhf.provenance.code import git_state
from rlhf.provenance.environment import lock_sha256

_PACKAGES = ("rlhf", "tasks", "flows")
_SUFFIXES = (".py", ".jinja")
_SHOWN = 12
Part = Literal["commit", "sources", "lock"]


class Code(BaseModel):
    """The code of a host.

    Attributes:
        commit: of its clone; None where it is no clone.
        sources: sha256 over the files of the packages, which differ from the commit where there are changes.
        lock: sha256 of requirements.lock.
    """

    model_config = ConfigDict(frozen=True)

    commit: str | None
    sources: str
    lock: str


@cache
def this_code() -> Code:
    """The code of this host, as it was when this process first asked."""
    return Code(commit=git_state(source_root()).commit, sources=_sources(), lock=lock_sha256())


def check_same(theirs: Code, whose: str) -> None:
    """Refuse to work with a host that has another version.

    Args:
        theirs: the code of the other.
        whose: it is, for the message.

    Raises:
        ConfigError: names what differs, and both.
    """
    ours = this_code()
    different = [
        part for part in _names() if None not in (a := getattr(ours, part), b := getattr(theirs, part)) and a != b
    ]
    if different:
        named = "; ".join(f"{part} {_short(ours, part)} here and {_short(theirs, part)} there" for part in different)
        raise ConfigError(
            f"this host has not the code of {whose}: {named}; check out the same commit on both (`git checkout "
            f"{theirs.commit or 'COMMIT'}`), without changes, install its requirements.lock, and start this again"
        )


def _names() -> tuple[Part, ...]:
    return ("commit", "sources", "lock")


def _short(code: Code, part: Part) -> str:
    return str(getattr(code, part))[:_SHOWN]


def _sources() -> str:
    files = sorted(
        path for package in _PACKAGES for path in (source_root() / package).rglob("*") if path.suffix in _SUFFIXES
    )
    lines = [f"{sha256(path)}  {path.relative_to(source_root()).as_posix()}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()

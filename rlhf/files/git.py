"""Git, asked in a folder: one error where it refuses, and one rule by which its bytes become text."""

import os
import subprocess
from pathlib import Path

from rlhf.errors import RLHFError, one_line


class GitError(RLHFError):
    """A git command failed, or git is not there.

    Attributes:
        reason: what git said.
    """

    def __init__(self, folder: Path, arguments: tuple[str, ...], reason: str) -> None:
        super().__init__(f"`git {' '.join(arguments)}` failed in {folder}: {reason}")
        self.reason = reason


def git(folder: Path, *arguments: str, given: bytes = b"", index: Path | None = None) -> bytes:
    """The standard output of a git command.

    Args:
        folder: where it is run.
        arguments: of git.
        given: its standard input.
        index: the index that it reads and writes in place of the repository's own.

    Raises:
        GitError: the command failed, or there is no such folder, or no git.
    """
    environment = os.environ | ({"GIT_INDEX_FILE": str(index)} if index else {})
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, input=given, env=environment)
    except OSError as error:
        raise GitError(folder, arguments, one_line(error)) from error
    if done.returncode:
        raise GitError(folder, arguments, as_text(done.stderr))
    return done.stdout


def try_git(folder: Path, *arguments: str, given: bytes = b"") -> bytes | None:
    """The standard output of a git command; None where the command failed."""
    try:
        return git(folder, *arguments, given=given)
    except GitError:
        return None


def as_text(output: bytes) -> str:
    """Text for people. Bytes that are not UTF-8 are shown as U+FFFD: authors and subjects may hold any."""
    return output.decode(errors="replace").strip(" \n")


def as_names(output: bytes) -> list[str]:
    """The names that a command with `-z` lists, as Python has names of files: any bytes, each leads to its file."""
    return [os.fsdecode(name) for name in output.split(b"\0") if name]

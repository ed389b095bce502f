"""The code of a run: a git commit, and a patch where the working tree differs from it."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlhf.files.git import as_names, as_text, git, try_git
from rlhf.provenance.credentials import has_secret_name, holds_secret

MAX_FILE_BYTES = 1_000_000
"""A changed file that is larger is not code, and stays out of the patch."""
_PACKAGES = ("rlhf", "tasks", "flows")
_STORE = "mlruns"
"""The folder of results, which many have on another disk, by a link. Git holds one empty file of it."""


@dataclass(frozen=True)
class GitState:
    """The commit of a working tree, and whether the tree differs from it.

    Attributes:
        commit: None outside a git repository, and before its first commit.
        dirty: tracked files have changed, or there are files that git neither tracks nor ignores.
    """

    commit: str | None
    dirty: bool


@dataclass(frozen=True)
class Patch:
    """The patch that makes the commit the code that ran.

    Attributes:
        content: what `git apply` reads; empty where nothing that counts has changed.
        left_out: changed files that are not in it, because they look like credentials, are too large, or lie in a
            folder that is a link.
    """

    content: bytes
    left_out: tuple[str, ...]

    @property
    def sha256(self) -> str | None:
        """Of the content; None where that is empty."""
        return hashlib.sha256(self.content).hexdigest() if self.content else None


def git_state(folder: Path) -> GitState:
    """Commit and dirtiness of the git repository that `folder` is in."""
    commit = try_git(folder, "rev-parse", "HEAD")
    lines = as_names(try_git(folder, "status", "--porcelain", "--no-renames", "-z") or b"")
    dirty = any(not _is_of_store(line[len("XY ") :]) for line in lines)
    return GitState(as_text(commit) if commit is not None else None, dirty)


def has_commit(folder: Path, commit: str) -> bool:
    """Whether the clone that `folder` is in holds a commit."""
    return try_git(folder, "cat-file", "-e", f"{commit}^{{commit}}") is not None


def working_patch(folder: Path) -> Patch:
    """The difference between a working tree and its commit: tracked files, and new files of the project's packages.

    The index is not touched. Files that git ignores are not looked at.

    Args:
        folder: top of the working tree, with a commit.
    """
    changed = list(_changed(folder))
    left_out = tuple(sorted(name for name in changed if _is_kept_back(folder, name)))
    wanted = [name for name in changed if name not in left_out]
    return Patch(_diff(folder, wanted) if wanted else b"", left_out)


def looks_like_credential(path: Path) -> bool:
    """Whether a file's name or content is that of a key, a token or a password."""
    return has_secret_name(path.name) or (path.is_file() and holds_secret(path.read_bytes(), path.name))


def _changed(folder: Path) -> Iterator[str]:
    """Tracked files that differ from the commit, then new ones below the packages, relative to the folder."""
    tracked = git(folder, "diff", "--name-only", "--no-renames", "--relative", "-z", "HEAD")
    new = git(folder, "ls-files", "--others", "--exclude-standard", "-z", "--", *_PACKAGES)
    return (name for name in as_names(tracked + new) if not _is_of_store(name))


def _is_of_store(name: str) -> bool:
    return name.rstrip("/") == _STORE or name.startswith(f"{_STORE}/")


def _is_kept_back(folder: Path, name: str) -> bool:
    """A patch holds what a file was as well as what it is. Git takes nothing from behind a link."""
    path = folder / name
    if any((folder / parent).is_symlink() for parent in Path(name).parents):
        return True
    before = _committed(folder, name)
    if len(before) > MAX_FILE_BYTES or holds_secret(before, name):
        return True
    if path.is_symlink() or not path.is_file():
        return has_secret_name(path.name)
    return path.stat().st_size > MAX_FILE_BYTES or looks_like_credential(path)


def _committed(folder: Path, name: str) -> bytes:
    """A file's content in the commit; nothing where it is not there."""
    return try_git(folder, "cat-file", "blob", f"HEAD:./{name}") or b""


def _diff(folder: Path, names: list[str]) -> bytes:
    """By an index of its own, since new files are in a diff only once they are in an index."""
    with tempfile.TemporaryDirectory(prefix="rlhf-") as scratch:
        index = Path(scratch) / "index"
        paths = os.fsencode("\0".join(names))
        git(folder, "read-tree", "HEAD", index=index)
        # Pathspecs are names here, whatever characters they hold.
        add = ("--literal-pathspecs", "add", "--all", "--force", "--pathspec-from-file=-", "--pathspec-file-nul")
        git(folder, *add, given=paths, index=index)
        # Settings of the person's may not decide how it is written.
        form = ("--binary", "--no-color", "--no-renames", "--no-ext-diff", "--no-textconv", "--full-index")
        return git(folder, "diff", "--cached", *form, "--src-prefix=a/", "--dst-prefix=b/", "HEAD", index=index)

"""The code of a run: a git commit, and a patch where the working tree differs from it."""

import fnmatch
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_FILE_BYTES = 1_000_000
"""A changed file that is larger is not code, and stays out of the patch."""
_PACKAGES = ("rlhf", "tasks", "flows")
_CREDENTIAL_NAMES = (
    *(".env", ".env.*", "*.env", ".netrc", ".pypirc", ".pgpass", ".npmrc", ".git-credentials"),
    *("*.pem", "*.key", "*.pfx", "*.p12", "*.jks", "*.kdbx", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*"),
    *("*credential*", "*secret*", "*password*", "*.token", "token.txt", "config.local"),
)
# What keys and tokens look like: PEM, AWS, Hugging Face, GitHub, GitLab, Slack, Google, OpenAI, passwords within
# addresses, and settings whose names say so.
_CREDENTIAL = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bhf_[A-Za-z0-9]{30,}\b|\bgh[pousr]_[A-Za-z0-9]{36,}\b"
    rb"|\bgithub_pat_\w{22,}|\bglpat-[\w-]{20,}|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAIza[\w-]{35}|\bsk-[A-Za-z0-9_-]{20,}"
    rb"|\b[a-z][a-z0-9+.-]*://[^\s/:@\"'{}]+:[^\s/@\"'{}]{8,}@"
    rb"|(?i:aws_secret_access_key|api[_-]?key|auth[_-]?token)[\"']?\s*[:=]\s*[\"'][^\"'\s]{16,}[\"']"
    rb"|(?im:^\s*(?:export\s+)?[\w.-]*(?:secret|api[_-]?key|token|passw(?:or)?d)[\w.-]*\s*[:=]\s*(?=\S*\d)"
    rb"[A-Za-z0-9+/_.=-]{16,}\s*$)"
)


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
    """What makes the commit the code that ran.

    Attributes:
        content: what `git apply` reads; empty where nothing that counts has changed.
        left_out: changed files that are not in it, because they look like credentials or are too large.
    """

    content: bytes
    left_out: tuple[str, ...]

    @property
    def sha256(self) -> str | None:
        """Of the content; None where that is empty."""
        return hashlib.sha256(self.content).hexdigest() if self.content else None


def git_state(folder: Path) -> GitState:
    """Commit and dirtiness of the git repository that `folder` is in."""
    commit = git_answer(folder, "rev-parse", "HEAD")
    return GitState(commit, dirty=bool(git_answer(folder, "status", "--porcelain")))


def has_commit(folder: Path, commit: str) -> bool:
    """Whether the clone that `folder` is in holds a commit."""
    return git_answer(folder, "cat-file", "-e", f"{commit}^{{commit}}") is not None


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


def looks_like_a_credential(path: Path) -> bool:
    """Whether a file's name or content is that of a key, a token or a password."""
    return _is_named_like_one(path) or (path.is_file() and _CREDENTIAL.search(path.read_bytes()) is not None)


def _is_named_like_one(path: Path) -> bool:
    """Code may speak of secrets in its name."""
    return path.suffix != ".py" and any(fnmatch.fnmatch(path.name.lower(), one) for one in _CREDENTIAL_NAMES)


def _changed(folder: Path) -> Iterator[str]:
    """Tracked files that differ from the commit, then new ones below the packages, relative to the folder."""
    tracked = _run(folder, "diff", "--name-only", "--no-renames", "--relative", "-z", "HEAD")
    new = _run(folder, "ls-files", "--others", "--exclude-standard", "-z", "--", *_PACKAGES)
    yield from (name for name in (tracked + new).decode(errors="surrogateescape").split("\0") if name)


def _is_kept_back(folder: Path, name: str) -> bool:
    """A patch holds what a file was as well as what it is."""
    path = folder / name
    before = _committed(folder, name)
    if len(before) > MAX_FILE_BYTES or _CREDENTIAL.search(before):
        return True
    if path.is_symlink() or not path.is_file():
        return _is_named_like_one(path)
    return path.stat().st_size > MAX_FILE_BYTES or looks_like_a_credential(path)


def _committed(folder: Path, name: str) -> bytes:
    """A file's content in the commit; nothing where it is not there."""
    command = ["git", "cat-file", "blob", f"HEAD:./{name}"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).stdout


def _diff(folder: Path, names: list[str]) -> bytes:
    """By an index of its own, since new files are in a diff only once they are in an index."""
    with tempfile.TemporaryDirectory(prefix="rlhf-") as scratch:
        index = Path(scratch) / "index"
        paths = "\0".join(names).encode(errors="surrogateescape")
        _run(folder, "read-tree", "HEAD", index=index)
        _run(
            folder, "add", "--all", "--force", "--pathspec-from-file=-", "--pathspec-file-nul", given=paths, index=index
        )
        # Settings of the person's may not decide how it is written.
        form = ("--binary", "--no-color", "--no-renames", "--no-ext-diff", "--no-textconv", "--full-index")
        return _run(folder, "diff", "--cached", *form, "--src-prefix=a/", "--dst-prefix=b/", "HEAD", index=index)


def git_answer(folder: Path, *arguments: str) -> str | None:
    """What git says in a folder; None where it refuses, or is not there."""
    try:
        return _run(folder, *arguments).decode().strip()
    except (subprocess.CalledProcessError, FileNotFoundError):
        return None


def _run(folder: Path, *arguments: str, given: bytes = b"", index: Path | None = None) -> bytes:
    # Pathspecs are names here, whatever characters they hold.
    command = ["git", "--literal-pathspecs", *arguments]
    environment = os.environ | ({"GIT_INDEX_FILE": str(index)} if index else {})
    return subprocess.run(command, cwd=folder, capture_output=True, check=True, input=given, env=environment).stdout

"""Versions of data/ in a real git and DVC repository, and remotes for them."""

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from data_rows import Row, write_lines

from rlhf.data.versions.resolve import track


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=Tester", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def record(root: Path, rows: Mapping[str, Iterable[Row]], message: str) -> str:
    """Change files of data/, track and commit them. Returns the md5."""
    for kind, changed in rows.items():
        write_lines(root / "data" / f"{kind}.jsonl", changed)
    md5 = track(root, desc=f"What {message} is")
    git(root, "add", "data.dvc", ".gitignore")
    git(root, "commit", "--quiet", "--message", message)
    return md5


def add_remote(root: Path, name: str, url: str, default: bool = True) -> None:
    from dvc.repo import Repo

    with Repo(str(root)) as repo, repo.config.edit() as config:
        config["remote"][name] = {"url": url}
        if default:
            config["core"]["remote"] = name


def cached(root: Path, md5: str) -> Path:
    """Where DVC's cache keeps a file."""
    return stored(root / ".dvc" / "cache", md5)


def stored(folder: Path, md5: str) -> Path:
    """Where a remote that is a folder keeps a file."""
    return folder / "files" / "md5" / md5[:2] / md5[2:]

"""The git and DVC repository that tracks data/: opened, and asked what data.dvc says."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from rlhf.errors import DataError, one_line

TRACKED = "data"
DVC_FILE = "data.dvc"


def check_repository(root: Path) -> None:
    """Tell early, and without importing DVC, that its repository is not there.

    Raises:
        DataError: the root is no git or no DVC repository.
    """
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        raise DataError(
            f"{root}: this is no git repository, so no version of the data can be told; run `git init && dvc init`"
        )
    if not (root / ".dvc").is_dir():
        raise DataError(f"{root / '.dvc'}: this is no DVC repository, so data/ cannot be tracked; run `dvc init`")


def read_dvc_file(root: Path) -> dict[str, Any]:
    """The content of data.dvc, for a root that is a git and DVC repository.

    Raises:
        DataError: it is missing or is not DVC's, or the root is no repository.
    """
    if not (root / DVC_FILE).is_file():
        raise DataError(
            f"{root / DVC_FILE}: the file is missing, so data/ is not tracked by DVC; "
            "import data with `rlhf data import FILE`, run `dvc add data`, "
            "or get the file back with `git checkout data.dvc`"
        )
    check_repository(root)
    try:
        return parse_dvc_file((root / DVC_FILE).read_bytes())
    except ValueError as error:
        raise DataError(
            f"{root / DVC_FILE}: the file is not DVC's ({error}); get it back with `git checkout data.dvc`"
        ) from None


def parse_dvc_file(text: bytes) -> dict[str, Any]:
    """The content of a data.dvc.

    Raises:
        ValueError: it is not DVC's, or names no md5.
    """
    try:
        content: dict[str, Any] = yaml.safe_load(text.decode("utf-8"))
        md5 = content["outs"][0]["md5"]
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, IndexError) as error:
        raise ValueError(repr(error)) from None
    if not isinstance(md5, str):
        raise ValueError("the md5 is not text")
    return content


def md5_in(dvc_file: Mapping[str, Any]) -> str:
    """The md5 of data/ that a data.dvc names."""
    md5: str = dvc_file["outs"][0]["md5"]
    return md5


def git_commands(message: str = "Update the data") -> str:
    """The command that records the tracked version in git."""
    return f"git add {DVC_FILE} .gitignore && git commit -m '{message}'"


@contextmanager
def opened(root: Path, failure: str) -> Iterator[Any]:
    """DVC's repository, waited for while another process writes; what DVC refuses becomes a DataError.

    Args:
        root: the project's root.
        failure: what has failed where DVC refuses, for the message.

    Raises:
        DataError: the root is no git and DVC repository, or DVC refuses.
    """
    check_repository(root)
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root), _wait_for_lock=True) as repo:
            # It would say on standard output which git commands come next.
            repo.scm_context.quiet = True
            yield repo
    except DvcException as error:
        reason = one_line(error)
        raise DataError(
            f"{root / TRACKED}: {failure} ({reason}); look with `rlhf data status`, bring it with `rlhf data pull`, "
            "or import it again with `rlhf data import FILE`"
        ) from error

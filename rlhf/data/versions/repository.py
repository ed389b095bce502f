"""The git and DVC repository that tracks data/: opened, and asked what data.dvc says."""

import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from rlhf.errors import DataError, one_line
from rlhf.files.git import as_names, try_git
from rlhf.files.names import open_regular
from rlhf.files.plain_yaml import MAX_BYTES, load_yaml

TRACKED = "data"
DVC_FILE = "data.dvc"
_CONFLICT = re.compile(rb"^(<{7}|={7}|>{7})( |\r?$)", re.MULTILINE)
_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
_MD5_LINE = re.compile(rb"\bmd5: ([0-9a-f]{32}\.dir)")


def check_repository(root: Path) -> None:
    """Tell early, and without importing DVC, that its repository is not there, or that data/ is no folder.

    Raises:
        DataError: the root is no git or no DVC repository, or data/ is a link or a file.
    """
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        raise DataError(
            f"{root}: this is no git repository, so no version of the data can be told; run `git init && dvc init`"
        )
    if not (root / ".dvc").is_dir():
        raise DataError(f"{root / '.dvc'}: this is no DVC repository, so data/ cannot be tracked; run `dvc init`")
    _check_is_a_folder(root / TRACKED)


def check_left_to_dvc(root: Path) -> None:
    """Tell before anything is made that DVC could not track it, since git does.

    Raises:
        DataError: git tracks files of data/.
    """
    names = as_names(try_git(root, "ls-files", "-z", "--", TRACKED) or b"")
    if names:
        raise DataError(
            f"{root / TRACKED}: git tracks this folder ({len(names)} files, such as {names[0]}), so DVC cannot; take "
            f"it out of git, which leaves the files where they are, and then give the command again: "
            f"`git rm -r --cached --quiet {TRACKED} && git commit -m 'Leave the data to DVC'`"
        )


def _check_is_a_folder(folder: Path) -> None:
    """Refuse what DVC would replace by a folder, or would refuse once all the work is done."""
    if folder.is_symlink():
        target = folder.readlink()
        if not folder.exists():
            raise DataError(
                f"{folder}: this is a link to {target}, and there is nothing; remove it (`rm {folder}`), then bring "
                "the data with `rlhf data pull`, or import it with `rlhf data import FILE`"
            )
        raise DataError(
            f"{folder}: this is a link to {target}, and DVC tracks folders, not links; put the folder itself there "
            f"(`rm {folder} && cp -r {folder.resolve()} {folder}`), or remove the link and read the data where it is, "
            f"untracked, with --data.path {folder.resolve()}"
        )
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: this is a file, and a folder is to be there; move it away")


def read_dvc_file(root: Path) -> dict[str, Any]:
    """The content of data.dvc, for a root that is a git and DVC repository.

    Raises:
        DataError: it is missing or is not DVC's, or the root is no repository.
    """
    check_repository(root)
    if not (root / DVC_FILE).is_file():
        check_left_to_dvc(root)
        if (root / DVC_FILE).exists():
            raise DataError(f"{root / DVC_FILE}: this is no file; move it away, then `git checkout HEAD -- {DVC_FILE}`")
        raise DataError(
            f"{root / DVC_FILE}: the file is missing, so data/ is not tracked by DVC; "
            "import data with `rlhf data import FILE`, run `dvc add data`, "
            "or get the file back with `git checkout HEAD -- data.dvc`"
        )
    with open_regular(root / DVC_FILE) as file:
        text = file.read(MAX_BYTES + 1)
    if _CONFLICT.search(text):
        raise DataError(f"{root / DVC_FILE}: the file holds git's conflict markers: {_how_to_choose(root, text)}")
    try:
        return parse_dvc_file(text)
    except ValueError as error:
        raise DataError(f"{root / DVC_FILE}: the file is not DVC's ({error}); {_how_to_repair(root)}") from None


def parse_dvc_file(text: bytes) -> dict[str, Any]:
    """The content of a data.dvc.

    Raises:
        ValueError: it is not DVC's, or names no md5.
    """
    try:
        content: dict[str, Any] = load_yaml(text.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"it is no YAML: {one_line(error)}") from None
    try:
        md5 = content["outs"][0]["md5"]
    except (TypeError, KeyError, IndexError):
        raise ValueError("it has no `outs` with the md5 of data/") from None
    if not isinstance(md5, str) or not is_md5(md5):
        raise ValueError(f"the md5 is {md5!r}, and not 32 hexadecimal digits")
    return content


def _how_to_choose(root: Path, text: bytes) -> str:
    versions = list(dict.fromkeys(md5.decode() for md5 in _MD5_LINE.findall(text)))
    several = f"two branches recorded different versions ({', '.join(versions)})" if versions else "a merge is not over"
    choose = (
        f"`git checkout --ours {DVC_FILE}` or `git checkout --theirs {DVC_FILE}`, then `git add {DVC_FILE}`"
        if try_git(root, "ls-files", "--unmerged", "--", DVC_FILE)
        else f"`git checkout COMMIT -- {DVC_FILE}`, with a commit of `git log -- {DVC_FILE}` that has it whole"
    )
    return (
        f"{several}; take one of the two ({choose}), and bring its data with `rlhf data pull`. The rows of the other "
        "can be added to it with `rlhf data add`"
    )


def committed_md5(root: Path) -> str | None:
    """The md5 of data/ that the commit records; None where it has no data.dvc, or one that is not DVC's."""
    try:
        return md5_in(parse_dvc_file(try_git(root, "show", f"HEAD:./{DVC_FILE}") or b""))
    except ValueError:
        return None


def _how_to_repair(root: Path) -> str:
    if committed_md5(root) is None:
        return f"remove it (`rm {DVC_FILE}`), then record data/ with `dvc add data`, or import it again"
    return f"get it back with `git checkout HEAD -- {DVC_FILE}`"


def is_md5(text: str) -> bool:
    """Whether it is an md5 of DVC's, of a file or a folder: it becomes a folder's name, and a path of the cache."""
    return _MD5.fullmatch(text) is not None


def md5_in(dvc_file: Mapping[str, Any]) -> str:
    """The md5 of data/ that a data.dvc names."""
    md5: str = dvc_file["outs"][0]["md5"]
    return md5


def git_commands(message: str = "Update the data") -> str:
    """The command that records the tracked version in git."""
    return f"git add {DVC_FILE} .gitignore && git commit -m {shlex.quote(message)}"


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

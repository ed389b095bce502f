"""The versions of data/ that git's history records, found by revision, by tag or by md5."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rlhf.data.evaluation_sets import FOLDER as SETS
from rlhf.data.schema import ALL_KINDS, KINDS
from rlhf.data.versions.repository import DVC_FILE, check_repository, md5_in, parse_dvc_file
from rlhf.data.versions.stores import Stores, manifest
from rlhf.errors import DataError, check_name
from rlhf.files.git import GitError, as_text, git, try_git
from rlhf.text.lines import lines_of

_SEPARATOR = "\x1f"
_MD5_PREFIX = re.compile(r"[0-9a-f]{4,32}(\.dir)?")
_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True)
class DataVersion:
    """A version that a commit recorded.

    Attributes:
        commit: its hash.
        date: when it was committed.
        author: who made it.
        subject: first line of its message.
        md5: of data/.
        desc: what data.dvc says that it is.
    """

    commit: str
    date: datetime
    author: str
    subject: str
    md5: str
    desc: str | None


def history(root: Path, everywhere: bool = False) -> list[DataVersion]:
    """The commits that changed data.dvc, the newest first; those that hold none, or none of DVC's, are passed over.

    Args:
        root: the project's root.
        everywhere: those of all branches and tags, and not only those before the commit that is checked out.

    Raises:
        DataError: the root is no git and DVC repository.
    """
    check_repository(root)
    form = _SEPARATOR.join(("%H", "%cI", "%an", "%s"))
    # Without --all, an empty repository has no HEAD to begin from, and git refuses.
    begin = ["--all"] if everywhere or try_git(root, "rev-parse", "--verify", "--quiet", "HEAD") is None else ["HEAD"]
    log = try_git(root, "log", *begin, f"--format={form}", "--", DVC_FILE) or b""
    commits = [line.split(_SEPARATOR) for line in lines_of(as_text(log))]
    files = _contents(root, [commit for commit, *_ in commits])
    versions = []
    for (commit, date, author, subject), file in zip(commits, files, strict=True):
        try:
            content = parse_dvc_file(file or b"")
        except ValueError:
            continue
        described = content.get("desc")
        versions.append(
            DataVersion(commit, datetime.fromisoformat(date), author, subject, md5_in(content), described or None)
        )
    return versions


def find_version(name: str, root: Path) -> str:
    """The md5 of the version that a person names.

    Args:
        name: branch, tag, commit, or the first four or more digits of an md5. All 32 need no commit that records it.
        root: the project's root.

    Raises:
        DataError: there is none of that name, or more than one.
    """
    check_name(name, "the name of a version")
    check_repository(root)
    if try_git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}") is not None:
        return md5_at(name, root)
    if _MD5.fullmatch(name):
        return name.removesuffix(".dir") + ".dir"
    recorded = {version.md5 for version in history(root, everywhere=True)}
    matches = sorted(md5 for md5 in recorded if _MD5_PREFIX.fullmatch(name) and md5.startswith(name))
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise DataError(f"{name}: more than one version begins so ({', '.join(matches)}); give more of it")
    raise DataError(
        f"{name}: there is no such branch, tag, commit or md5 of data/ in this clone; look with `rlhf data log`, "
        "or bring it with `git fetch --tags` (with --unshallow in a shallow clone)"
    )


def md5_at(revision: str, root: Path) -> str:
    """The md5 of data/ that a git revision records.

    Raises:
        DataError: the revision has no data.dvc, or it is not DVC's.
        InputError: no revision can have that name.
    """
    check_name(revision, "the name of a git revision")
    check_repository(root)
    try:
        # A revision that begins with a dash would be an option.
        shown = git(root, "show", "--end-of-options", f"{revision}:./{DVC_FILE}")
    except GitError as error:
        raise DataError(
            f"{DVC_FILE} at the git revision {revision} cannot be read ({error.reason}); "
            "fetch that revision, or name one that has it"
        ) from None
    try:
        return md5_in(parse_dvc_file(shown))
    except ValueError as error:
        raise DataError(f"{DVC_FILE} at the git revision {revision} is not DVC's ({error}); correct it there") from None


def count_rows(md5: str, dvc: Stores) -> dict[str, int] | None:
    """Rows by kind of a version that the cache holds whole; None for another."""
    if dvc.cache.size(md5) is None:
        return None
    files = manifest(md5, dvc.cache)
    present = [kind for kind in ALL_KINDS if kind in KINDS or f"{kind}.jsonl" in files]
    present += sorted(name.removesuffix(".jsonl") for name in files if name.startswith(f"{SETS}/"))
    rows = {kind: files.get(f"{kind}.jsonl") for kind in present}
    if any(file is None or dvc.cache.size(file) is None for file in rows.values()):
        return None
    return {kind: _count_lines(Path(dvc.cache.path(file))) for kind, file in rows.items() if file is not None}


def _count_lines(path: Path) -> int:
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


def _contents(root: Path, commits: Sequence[str]) -> Iterator[bytes | None]:
    """data.dvc as each commit has it; None where it has none. One process for all."""
    prefix = (try_git(root, "rev-parse", "--show-prefix") or b"").rstrip(b"\n")
    asked = b"".join(b"%s:%s%s\n" % (commit.encode(), prefix, DVC_FILE.encode()) for commit in commits)
    answer = git(root, "cat-file", "--batch", given=asked)
    place = 0
    for _ in commits:
        end = answer.index(b"\n", place)
        head, place = answer[place:end].split(), end + 1
        if head[-1] == b"missing":
            yield None
            continue
        size = int(head[-1])
        yield answer[place : place + size]
        place += size + 1

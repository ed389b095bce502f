"""The recorded version of data/: where it is, and its way to a remote and back."""

from dataclasses import dataclass, replace
from pathlib import Path

from rlhf.config.data import DataConfig
from rlhf.data.versions.repository import (
    DVC_FILE,
    TRACKED,
    check_left_to_dvc,
    check_repository,
    committed_md5,
    md5_in,
    read_dvc_file,
)
from rlhf.data.versions.resolve import differs, marked, resolve
from rlhf.data.versions.stores import Store, Stores, export_version, manifest, stores, translate_errors
from rlhf.data.versions.transaction import new_version, recover, restore
from rlhf.errors import DataError
from rlhf.files.hashing import dvc_md5


@dataclass(frozen=True)
class Status:
    """The state of the data.

    Attributes:
        md5: the version that data.dvc names; None where there is no data.dvc.
        present: data/ is there.
        equal: it is that version.
        committed: git has that data.dvc.
        cached: DVC's cache holds the version whole.
        remotes: for every remote `yes`, `no`, or what it answered in place of data; the default one first.
        next: what to do now, one sentence each; empty where all is well.
    """

    md5: str | None
    present: bool
    equal: bool
    committed: bool
    cached: bool
    remotes: dict[str, str]
    next: tuple[str, ...]


def status(root: Path) -> Status:
    """Find out where the data stands.

    Raises:
        DataError: the root is no git and DVC repository, git tracks data/, or data.dvc is not DVC's.
    """
    check_repository(root)
    check_left_to_dvc(root)
    recover(root)
    present = (root / TRACKED).is_dir()
    if not (root / DVC_FILE).is_file():
        step = "record data/ with `dvc add data`" if present else "make data/ with `rlhf data import FILE`"
        return Status(None, present, False, False, False, {}, (f"{step}, then commit data.dvc",))
    md5 = md5_in(read_dvc_file(root))
    with stores(root) as dvc:
        cached = is_whole(md5, dvc.cache)
        remotes = {store.remote or "": _answer(md5, store, dvc.cache) for store in dvc.remotes}
    equal = present and not differs(root, md5)
    known = Status(md5, present, equal, committed_md5(root) == md5, cached, remotes, ())
    return replace(known, next=tuple(_next_steps(known, marked(root) is not None)))


def is_whole(md5: str, store: Store, cache: Store | None = None) -> bool:
    """Whether a store holds every file of a version, of the size that it has in the cache, should it be there."""
    cache = cache or store
    if not _is_held(md5, store, cache):
        return False
    return all(_is_held(file, store, cache) for file in manifest(md5, store).values())


def push(root: Path, remote: str | None = None) -> tuple[str, int]:
    """Copy the recorded version of data/ from the cache to a remote; its list of files last, so it is there or not.

    Args:
        root: the project's root.
        remote: its name [default: DVC's default remote].

    Returns:
        What it was pushed to, and how many files were not there yet, or not whole.

    Raises:
        DataError: there is no remote, it refuses, or the cache does not hold the version undamaged.
    """
    md5 = md5_in(read_dvc_file(root))
    with stores(root) as dvc:
        target = choose_remote(dvc, remote)
        if not is_whole(md5, dvc.cache):
            raise DataError(
                f"{dvc.cache} does not hold the version {md5} that data.dvc names; "
                "bring it with `rlhf data pull`, or record data/ with `dvc add data`"
            )
        files = [*dict.fromkeys(manifest(md5, dvc.cache).values()), md5]
        missing = [file for file in files if not _is_held(file, target, dvc.cache)]
        _send(missing, dvc.cache, target)
    return str(target), len(missing)


def pull(root: Path, remote: str | None = None) -> bool:
    """Make data/ the version that data.dvc names, out of the cache or a remote.

    Args:
        root: the project's root.
        remote: the only one to ask [default: all].

    Returns:
        Whether data/ changed.

    Raises:
        DataError: no store has the version whole, or data/ holds what no version records. Nothing has changed then.
    """
    recover(root)
    if _is_there(md5_in(read_dvc_file(root)), root):
        return False
    if not (root / TRACKED).exists() and marked(root) is not None:
        resolve(DataConfig(), root)
        return True
    with new_version(root) as filled:
        # Another process may have made a version, or brought this one, until the right to write was had.
        md5 = md5_in(read_dvc_file(root))
        if _is_there(md5, root):
            return False
        with stores(root) as dvc:
            if remote is not None:
                dvc = replace(dvc, remotes=(choose_remote(dvc, remote),))
            _check_recorded(root, dvc)
            export_version(md5, dvc, filled)
            restore(filled, root, md5)
    return True


def choose_remote(dvc: Stores, name: str | None) -> Store:
    """The remote of that name, else the default one.

    Raises:
        DataError: there is no such remote, or none is the default.
    """
    names = [store.remote for store in dvc.remotes]
    if not names:
        raise DataError(
            "no remote is configured; name one with `dvc remote add --default NAME URL`, "
            "such as s3://BUCKET/PATH, ssh://HOST/PATH or a folder"
        )
    wanted = name or dvc.repo.config["core"].get("remote") or (names[0] if len(names) == 1 else None)
    if wanted is None:
        raise DataError(f"none of the remotes {', '.join(map(str, names))} is the default; give --remote NAME")
    if wanted not in names:
        raise DataError(f"there is no remote {wanted}; give one of {', '.join(map(str, names))}")
    return dvc.remotes[names.index(wanted)]


def _is_there(md5: str, root: Path) -> bool:
    return (root / TRACKED).is_dir() and not differs(root, md5)


def _is_held(file: str, store: Store, cache: Store) -> bool:
    """Whether a store holds a file, as far as its size tells."""
    size = store.size(file)
    return size is not None and cache.size(file) in (None, size)


def _send(files: list[str], cache: Store, target: Store) -> None:
    from rlhf.data.versions.transfer import Progress

    sizes = {file: cache.size(file) or 0 for file in files}
    progress = Progress("push, MB", sum(sizes.values()))
    for file in files:
        _check_sound(file, cache)
        torn = target.size(file) is not None
        with translate_errors(target):
            if torn:
                target.odb.unprotect(target.path(file))  # a remote in a folder has its files read-only
            target.odb.add(cache.path(file), cache.odb.fs, file, callback=progress, check_exists=False)
        if target.size(file) != sizes[file]:
            raise DataError(f"{target} did not keep the file {file} whole; push it again")
        progress.finished(sizes[file])


def _check_sound(file: str, cache: Store) -> None:
    """A damaged file here must not replace the file on a remote."""
    path = Path(cache.path(file))
    if dvc_md5(path) != file.removesuffix(".dir"):
        raise DataError(
            f"{cache} has the file {file} damaged, so it is not pushed; "
            f"remove {path}, then put it back with `dvc add data` or `rlhf data pull`"
        )


def _check_recorded(root: Path, dvc: Stores) -> None:
    """The content of data/ may go only where the cache can give it back."""
    folder = root / TRACKED
    if folder.is_dir() and any(folder.iterdir()) and not is_whole(dvc_md5(folder), dvc.cache):
        raise DataError(
            "data/ holds changes that no version records, and they would be lost; record them "
            "(`git stash -- data.dvc` brings back the data.dvc of their time, then `dvc add data`), or remove data/"
        )


def _answer(md5: str, store: Store, cache: Store) -> str:
    try:
        return "yes" if is_whole(md5, store, cache) else "no"
    except DataError as error:
        return str(error)


def _next_steps(status: Status, embedded: bool) -> list[str]:
    steps = []
    if not status.present:
        steps.append("bring data/ with `rlhf data pull`" + (", which generates it" if embedded else ""))
    elif not status.equal:
        steps.append(
            "data/ differs from data.dvc: record it with `dvc add data`, "
            "or bring the recorded version back with `dvc checkout data --force`"
        )
    if not status.committed:
        steps.append(f"record data.dvc in git: `git add {DVC_FILE} .gitignore && git commit`")
    if embedded:
        return steps
    if not status.remotes:
        steps.append("name a remote, so that others can have the data: `dvc remote add --default NAME URL`")
    elif "yes" not in status.remotes.values() and status.cached:
        steps.append("copy the version to a remote with `rlhf data push`")
    return steps

"""Removable files of DVC's cache and of a remote: no commit, no kept run and no working tree names them."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from rlhf.data.versions.stores import Store, Stores, manifest, stores, translate_errors
from rlhf.errors import InputError
from rlhf.files.git import as_names, git, try_git
from rlhf.paths import root
from rlhf.runs.gc.items import Removable

_MD5 = re.compile(rb"\b[0-9a-f]{32}(?:\.dir)?\b")
_FILES = (":(glob)**/*.dvc", ":(glob)**/dvc.lock")
_FOLDER = ".dir"


def find_data_versions(kept: Iterable[str], remote: str | None) -> tuple[list[Removable], list[str]]:
    """The removable files of the cache, and of one remote.

    Args:
        kept: md5s of versions that kept runs have read.
        remote: name of a remote to look at too; None for the cache alone.

    Returns:
        The items, and notes on what was left alone, and why.

    Raises:
        InputError: there is no such remote.
        DataError: DVC's configuration cannot be used, or the remote refuses.
    """
    if not (root() / ".dvc").is_dir() or try_git(root(), "rev-parse", "HEAD") is None:
        return [], ["this is no git and DVC repository with a commit, so versions of the data were left alone"]
    if try_git(root(), "rev-parse", "--is-shallow-repository") == b"true\n":
        return [], ["this clone is shallow, so which versions of the data commits need is not known; they stay"]
    with stores(root()) as dvc, dvc.repo.lock:
        needed = needed_md5s(kept)
        items: list[Removable] = []
        notes: list[str] = []
        if Path(dvc.cache.odb.path).resolve().is_relative_to(root().resolve()):
            items += list(_unneeded(dvc.cache, needed, dvc, notes))
        else:
            notes.append(f"{dvc.cache} lies outside the project, and other clones may need what it holds; it stays")
        if remote is not None:
            items += list(_unneeded(_named(remote, dvc), needed, dvc, notes))
    return items, notes


def remove_objects(item: Removable, kept: Iterable[str]) -> list[int]:
    """Remove a version's files from the cache or a remote, but for what has come to be needed meanwhile.

    The list of a folder's files goes last, so that what a kill leaves is found again.

    Returns:
        The sizes of the files that stayed.
    """
    with stores(root()) as dvc, dvc.repo.lock:
        store = dvc.cache if item.remote is None else _named(item.remote, dvc)
        needed = needed_md5s(kept)
        files = _expanded(needed, store, dvc)[0]
        going = [md5 for md5 in item.objects if md5 not in files]
        with translate_errors(store):
            for md5 in sorted(going, key=lambda md5: md5.endswith(_FOLDER)):
                if store.odb.exists(md5):
                    store.odb.delete(md5)
            if item.remote is not None:
                from dvc_data.hashfile.db import get_index

                get_index(store.odb).clear()  # it would say that the files are there
        return [store.size(md5) or 0 for md5 in item.objects if md5 in files]


def needed_md5s(kept: Iterable[str]) -> set[str]:
    """Versions and files that commits, working trees, indexes and kept runs name.

    All branches, tags, stashes and reflogs count, and the working trees of all worktrees.
    """
    everything = ("--objects", "--full-history", "--all", "--reflog", "--indexed-objects")
    listed = git(root(), "rev-list", *everything, "--", *_FILES)
    names = [line.partition(b" ")[0] for line in listed.split(b"\n") if b" " in line]
    contents = git(root(), "cat-file", "--batch", given=b"\n".join(names) + b"\n") if names else b""
    md5s = {match.decode() for match in _MD5.findall(contents)}
    for file in _working_files():
        md5s |= {match.decode() for match in _MD5.findall(file.read_bytes())}
    return md5s | set(kept)


def _working_files() -> Iterator[Path]:
    """The files by which DVC tracks, as they stand in this working tree and in those of the other worktrees."""
    prefix = b"worktree "
    lines = git(root(), "worktree", "list", "--porcelain").split(b"\n")
    others = (Path(os.fsdecode(line.removeprefix(prefix))) for line in lines if line.startswith(prefix))
    for tree in {root(), *(tree for tree in others if tree.is_dir())}:
        listed = try_git(tree, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *_FILES)
        paths = {*(tree / name for name in as_names(listed or b"")), *tree.glob("*.dvc")}
        yield from (path for path in paths if path.is_file())


def _unneeded(store: Store, needed: set[str], dvc: Stores, notes: list[str]) -> Iterator[Removable]:
    """Folders with those of their files that nothing else needs, then files that no folder lists."""
    files, unknown = _expanded(needed, store, dvc)
    with translate_errors(store):
        there = set(store.odb.all())
    left = there - files
    where = f", {store.name}" if store.remote else ""
    for md5 in sorted(md5 for md5 in left if md5.endswith(_FOLDER)):
        objects = ({*manifest(md5, store).values()} & left) | {md5}
        left -= objects
        why = "no commit, no kept run and no working tree names it"
        size = sum(store.size(md5) or 0 for md5 in objects)
        yield Removable(
            "data versions", f"version {md5}{where}", why, size, objects=tuple(sorted(objects)), remote=store.remote
        )
    if left and unknown:
        notes.append(
            f"{len(left)} files in {store} belong to no version that is known there; they stay, since version "
            f"{unknown[0]} is needed and the list of its files is not there"
        )
    elif left:
        why = "no version lists them"
        size = sum(store.size(md5) or 0 for md5 in left)
        name = f"{len(left)} files{where}"
        yield Removable("data versions", name, why, size, objects=tuple(sorted(left)), remote=store.remote)


def _expanded(needed: set[str], store: Store, dvc: Stores) -> tuple[set[str], list[str]]:
    """Needed files with the files of folders; and folders whose list is neither in the store nor in the cache."""
    files, unknown = set(needed), []
    for md5 in sorted(md5 for md5 in needed if md5.endswith(_FOLDER)):
        holder = next((held for held in (store, dvc.cache) if held.size(md5) is not None), None)
        if holder is None:
            unknown.append(md5)
        else:
            files |= set(manifest(md5, holder).values())
    return files, unknown


def _named(remote: str, dvc: Stores) -> Store:
    for store in dvc.remotes:
        if store.remote == remote:
            return store
    known = ", ".join(str(store.remote) for store in dvc.remotes) or "none at all"
    raise InputError(f"--remote {remote}: DVC has no remote of that name; those that there are: {known}")

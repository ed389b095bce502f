"""Stores of versions of data/: DVC's cache on this machine and its remotes, asked file by file."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from rlhf.addresses import public_address
from rlhf.data.versions.repository import is_md5, opened
from rlhf.errors import DataError, one_line
from rlhf.files.atomic import install, staged
from rlhf.files.hashing import dvc_md5
from rlhf.files.names import below, check_relative

_FOLDER = ".dir"


@dataclass(frozen=True)
class Store:
    """The cache or a remote.

    Attributes:
        name: `DVC's cache`, or `the remote NAME`.
        address: folder or URL.
        odb: DVC's object database: a file by its md5.
        remote: the remote's name; None for the cache.
    """

    name: str
    address: str
    odb: Any = field(repr=False)  # knows the password of its address
    remote: str | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"

    def path(self, md5: str) -> str:
        """The path of the file with that md5, whether it is there or not.

        Raises:
            DataError: it is no md5, and could lead anywhere.
        """
        if not is_md5(md5):
            raise DataError(f"{md5!r} is no md5 of DVC's, so {self} cannot have it; take it from data.dvc")
        path: str = self.odb.oid_to_path(md5)
        return path

    def size(self, md5: str) -> int | None:
        """Bytes of a file; None where it does not have it.

        Raises:
            DataError: it cannot be asked.
        """
        with translate_errors(self):
            try:
                # Not odb.exists(), to which a server that refuses is one without the file.
                return int(self.odb.fs.info(self.path(md5))["size"])
            except FileNotFoundError:
                return None


@dataclass(frozen=True)
class Stores:
    """The cache, and the remotes in the order in which they are asked: DVC's default one first."""

    repo: Any = field(repr=False)
    cache: Store
    remotes: tuple[Store, ...]

    def __iter__(self) -> Iterator[Store]:
        yield self.cache
        yield from self.remotes


@contextmanager
def stores(root: Path) -> Iterator[Stores]:
    """DVC's cache and all its remotes.

    Raises:
        DataError: the root is no git and DVC repository, or a remote is configured wrongly.
    """
    with opened(root, "DVC's configuration cannot be used") as repo:
        default = repo.config["core"].get("remote")
        names = sorted(repo.config["remote"], key=lambda name: (name != default, name))
        cache = repo.cache.local
        yield Stores(repo, Store("DVC's cache", cache.path, cache), tuple(_remote(repo, name) for name in names))


def _remote(repo: Any, name: str) -> Store:
    odb = repo.cloud.get_remote_odb(name)
    return Store(f"the remote {name}", public_address(odb.fs.unstrip_protocol(odb.path)), odb, name)


@contextmanager
def translate_errors(store: Store) -> Iterator[None]:
    """An answer of a store in place of data becomes a DataError that names the store."""
    try:
        yield
    except _refusals() as error:
        reason = one_line(error)
        raise DataError(
            f"{store} refuses: {reason}; check its address and your credentials for it with `dvc remote list`"
        ) from error


def _refusals() -> tuple[type[Exception], ...]:
    """The errors of the clients of S3, SSH and HTTP; most of them are OSErrors."""
    from aiohttp import ClientError
    from asyncssh import Error as SSHError
    from botocore.exceptions import BotoCoreError
    from botocore.exceptions import ClientError as S3Error
    from dvc.exceptions import DvcException
    from dvc_objects.errors import ObjectDBError

    return OSError, DvcException, ObjectDBError, ClientError, BotoCoreError, S3Error, SSHError


def check_out(md5: str, destination: Path, root: Path, replace: bool = False) -> None:
    """Fill a folder with a version of data/, from DVC's cache or any of its remotes. Every file's md5 is checked.

    What comes from a remote stays in the cache.

    Args:
        md5: of the version, as data.dvc gives it: with `.dir` at its end.
        destination: the folder to make. It appears whole or not at all; it may hold this version already.
        root: the project's root, whose cache and remotes are asked.
        replace: whether something else there may be lost.

    Raises:
        DataError: no store has the version whole, or the destination holds something that may not be lost.
    """
    with stores(root) as dvc, staged(destination) as filled:
        export_version(md5, dvc, filled)
        install(filled, destination, replace)


def export_version(md5: str, dvc: Stores, folder: Path) -> None:
    """Copy the files of a version into an empty folder, from the remotes by way of the cache, and check them.

    Raises:
        DataError: no store has the version whole.
    """
    files = fetch(md5, dvc)
    for name, file in files.items():
        path = below(folder, name, f"the list of files of version {md5}")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(dvc.cache.path(file), path)
    if dvc_md5(folder) != md5:
        raise DataError(
            f"the version {md5} comes out of {dvc.cache} as {dvc_md5(folder)}, so a file there is damaged; "
            f"remove that folder and bring the data again with `rlhf data pull`"
        )


def fetch(md5: str, dvc: Stores) -> dict[str, str]:
    """Bring a version into the cache.

    Args:
        md5: of the version.
        dvc: the cache and the remotes that may be asked.

    Returns:
        The md5 of every file, by its path in data/.

    Raises:
        DataError: no store has the version whole.
    """
    if not md5.endswith(_FOLDER) or not is_md5(md5):
        raise DataError(f"{md5} is no version of a data folder, whose md5 ends with {_FOLDER}; take it from data.dvc")
    with dvc.repo.lock:
        holders = {md5: _holder(md5, md5, dvc)}
        _into_cache(holders, dvc)
        files = manifest(md5, dvc.cache)
        holders = {file: _holder(file, md5, dvc) for file in files.values()}
        _into_cache(holders, dvc)
    return files


def manifest(md5: str, store: Store) -> dict[str, str]:
    """The md5 of every file of a version that a store holds, by its path in data/.

    Raises:
        DataError: it cannot be asked, or its list of files is damaged.
    """
    path = store.path(md5)
    with translate_errors(store), store.odb.fs.open(path, "rb") as file:
        text = file.read()
    try:
        return parse_manifest(text, f"version {md5}")
    except ValueError as error:
        repair = "push the version again" if store.remote else "put it back with `dvc add data` or `rlhf data pull`"
        raise DataError(
            f"{store} has the list of files of version {md5} damaged ({one_line(error)}); remove {path} there, "
            f"then {repair}"
        ) from None


def parse_manifest(text: bytes, where: str) -> dict[str, str]:
    """The md5 of every file of a version, by its path in data/. Both become paths, so both are checked.

    Args:
        text: DVC's list of files, as somebody else may have written it.
        where: it stands, for the message.

    Raises:
        ValueError: it is no such list; or a name leads out of data/, stands twice, or is a file's and a folder's.
    """
    try:
        entries = [(check_relative(entry["relpath"], where), entry["md5"]) for entry in json.loads(text)]
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"it is not what DVC writes: {error!r}") from None
    for _, md5 in entries:
        if not isinstance(md5, str) or not is_md5(md5) or md5.endswith(_FOLDER):
            raise ValueError(f"{md5!r} is no md5")
    files = dict(entries)
    if len({PurePosixPath(name) for name in files}) < len(entries):
        raise ValueError("a name stands there twice")
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    if both := sorted(folders & files.keys()):
        raise ValueError(f"{both[0]!r} is a file and a folder")
    return files


def _holder(file: str, md5: str, dvc: Stores) -> Store:
    """The first store that has a file."""
    from dvc_objects.errors import ObjectFormatError

    answers = []
    for store in dvc:
        try:
            if store.size(file) is not None:
                if store is dvc.cache:
                    store.odb.check(file)  # removes a file that is damaged
                return store
            answers.append(f"{store} does not have it")
        except ObjectFormatError:
            answers.append(f"{store} had it damaged")
        except DataError as error:
            answers.append(str(error))
    raise missing_everywhere(md5, answers, dvc)


def missing_everywhere(md5: str, answers: Sequence[str], dvc: Stores) -> DataError:
    """The error about a version that no store has, or that lacks a file in all of them."""
    what = (
        "push it with `rlhf data push` from a clone that has it, or name the remote that does with `dvc remote add`"
        if dvc.remotes
        else "no remote is configured; name the one that has it with `dvc remote add --default NAME URL`"
    )
    return DataError(f"the data of version {md5} cannot be had: {'; '.join(answers)}; {what}")


def _into_cache(holders: Mapping[str, Store], dvc: Stores) -> None:
    """Copy files from remotes into the cache, where each appears whole or not at all."""
    missing = {file: store for file, store in holders.items() if store is not dvc.cache}
    if not missing:
        return
    from rlhf.data.versions.transfer import Progress

    sizes = {file: store.size(file) or 0 for file, store in missing.items()}
    progress = Progress("data, MB", sum(sizes.values()))
    for file, store in missing.items():
        with translate_errors(store):
            dvc.cache.odb.add(store.path(file), store.odb.fs, file, verify=True, callback=progress)
        if dvc.cache.size(file) is None:
            raise DataError(
                f"{store} has the file {file} damaged, as {store.path(file)}; "
                "remove it there, then push again with `rlhf data push` from a clone that has it whole"
            )
        progress.finished(sizes[file])

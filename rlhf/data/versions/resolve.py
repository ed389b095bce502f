"""The data that a run reads: the folder that DVC tracks, checked against data.dvc, or something elsewhere."""

from pathlib import Path
from typing import get_args

from rlhf.config.data import DataConfig, EmbeddedName
from rlhf.data.embedded import EMBEDDED_FOLDER, generate
from rlhf.data.versions.repository import TRACKED, md5_in, opened, parse_dvc_file, read_dvc_file
from rlhf.data.versions.stores import check_out
from rlhf.data.versions.transaction import recover, track, writing
from rlhf.errors import DataError, one_line
from rlhf.files.atomic import install, staged
from rlhf.files.hashing import dvc_md5
from rlhf.files.names import below, check_regular
from rlhf.paths import local_folder, source_root
from rlhf.references import DataSource

__all__ = ["check_out", "marked", "resolve", "track"]


def check(config: DataConfig, root: Path) -> None:
    """Tell at once, before anything is started, what `resolve` would refuse without reading the data.

    Raises:
        DataError: there is no such data, or data/ and data.dvc are not as they must be.
    """
    if config.embedded is not None:
        _pinned(config.embedded)
        return
    path = root / config.path
    if _is_tracked(path, root):
        recover(root)
        read_dvc_file(root)
    elif path.exists() and not path.is_dir():
        check_regular(path)
    elif not path.exists():
        raise DataError(f"{path}: there is no such file or folder; set data.path to one that exists")


def resolve(config: DataConfig, root: Path) -> DataSource:
    """Find the data of a run, bring it here if need be, and check that it is what it should be.

    An embedded set that is missing is generated, as a folder of its own. data/ that is missing is checked out of DVC's
    cache or pulled; on a fresh clone, where data.dvc names an embedded set, that is generated. Nothing is made
    anywhere else: a path may be mistyped.

    Args:
        config: names the data; a relative path is taken from the project's root.
        root: the project's root, with data.dvc.

    Raises:
        DataError: the data is missing, differs from data.dvc, or is not the embedded set that its folder is named for.
    """
    check(config, root)
    if config.embedded is not None:
        return _embedded(config.embedded, root)
    path = root / config.path
    if _is_tracked(path, root):
        return _tracked(config, root)
    md5 = dvc_md5(path)
    tracked = path.resolve() == version_folder(md5, root).resolve()
    return DataSource(path=config.path, md5=md5, tracked=tracked)


def _is_tracked(path: Path, root: Path) -> bool:
    return path.resolve() == (root / TRACKED).resolve()


def version_folder(md5: str, root: Path) -> Path:
    """The folder of a version that DVC tracks, but not in data/ of this commit."""
    return below(local_folder("data", root), md5.removesuffix(".dir"), "the md5 of a version")


def marked(root: Path) -> EmbeddedName | None:
    """The embedded data set that data.dvc says data/ is; None where it is a person's own.

    Raises:
        DataError: data.dvc is missing or is not DVC's, or the root is no repository.
    """
    dvc_file = read_dvc_file(root)
    meta = dvc_file.get("meta") or {}
    name = meta.get("generator")
    # What DVC says of a folder outlives it: `dvc add` leaves the mark where it is.
    return name if name in get_args(EmbeddedName) and meta.get("md5") == md5_in(dvc_file) else None


def _embedded(name: EmbeddedName, root: Path) -> DataSource:
    place, md5 = f"{EMBEDDED_FOLDER}/{name}", _pinned(name)
    folder = root / place
    if not folder.exists():
        _generate(name, folder, md5)
    if dvc_md5(folder) != md5:
        raise DataError(
            f"{folder}: this is not the embedded set {name}: something in it was changed; remove the folder, and the "
            f"next run generates it again. Data of your own is read from data/ (`rlhf data import FILE`) by recipes "
            f"without data.embedded"
        )
    return DataSource(path=place, md5=md5, tracked=True, embedded=name)


def _pinned(name: EmbeddedName) -> str:
    """The md5 that the set's .dvc file names. It lies beside the code that generates the set."""
    file = source_root() / EMBEDDED_FOLDER / f"{name}.dvc"
    try:
        return md5_in(parse_dvc_file(file.read_bytes()))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file}: this is not the file of DVC's that goes with the embedded set {name} ({one_line(error)}); get it "
            f"back with `git checkout HEAD -- {EMBEDDED_FOLDER}/{name}.dvc`"
        ) from None


def _tracked(config: DataConfig, root: Path) -> DataSource:
    folder, md5 = root / TRACKED, md5_in(read_dvc_file(root))
    if not folder.exists():
        with writing(root):
            if not folder.exists():  # another run may have been faster
                name = marked(root)
                check_out(md5, folder, root) if name is None else _generate(name, folder, md5)
    actual = dvc_md5(folder)
    dirty = differs(root, md5, actual)
    if dirty and not config.allow_dirty_data:
        raise DataError(
            "data/ has changed since `dvc add`: it differs from data.dvc; "
            "record it (`dvc add data`, then commit data.dvc), "
            "bring the recorded data back (`dvc checkout data --force`, or delete data/ if it is the embedded set), "
            "or run with --allow-dirty-data"
        )
    return DataSource(path=config.path, md5=actual if dirty else md5, tracked=not dirty, dirty=dirty)


def differs(root: Path, md5: str, actual: str | None = None) -> bool:
    """Whether data/ is another version than the one with this md5.

    Args:
        root: the project's root.
        md5: of the version.
        actual: `dvc_md5` of data/, where it is known.
    """
    # A .dvcignore changes DVC's hash, so DVC has the last word on a difference.
    return (actual or dvc_md5(root / TRACKED)) != md5 and _hash_by_dvc(root) != md5


def _generate(name: EmbeddedName, folder: Path, md5: str) -> None:
    with staged(folder) as filled:
        generate(name, filled)
        made = dvc_md5(filled)
        if made != md5:
            raise DataError(
                f"the generator of the embedded set {name} makes {made}, and the .dvc file of {folder} says {md5}; "
                "check out the commit that it was written at, or, for data/, record the new data with "
                "`rlhf data import`"
            )
        try:
            install(filled, folder)
        except OSError:
            # Another process was faster; what it made is checked by the caller.
            if not folder.is_dir():
                raise


def _hash_by_dvc(root: Path) -> str | None:
    with opened(root, "DVC cannot read the folder") as repo:
        (out,) = repo.find_outs_by_path(str(root / TRACKED))
        value: str | None = out.get_hash().value
    return value

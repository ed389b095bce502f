"""The data that a run reads: the folder that DVC tracks, checked against data.dvc, or something elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.config.data import DataConfig, EmbeddedName
from rlhf.data.embedded import MADE_BY_RUNS, generate, generated
from rlhf.data.schema import DATASHEET
from rlhf.data.versions.repository import TRACKED, md5_in, opened, read_dvc_file
from rlhf.data.versions.stores import check_out
from rlhf.data.versions.transaction import recover, track, writing
from rlhf.errors import DataError
from rlhf.files.atomic import install, staged
from rlhf.files.hashing import dvc_md5
from rlhf.files.names import below, check_regular
from rlhf.paths import local_folder
from rlhf.references import DataSource

__all__ = ["check_out", "marked", "resolve", "track"]

EMBEDDED: EmbeddedName = "calibrated_arithmetic"
"""The embedded set that is generated as data/ and tracked there."""
_ADVICE: Mapping[EmbeddedName | None, str] = {
    None: "; set data.path to one that exists",
    EMBEDDED: f", and the embedded set {EMBEDDED} is generated as data/ alone; leave data.path away, or, for data of "
    "your own, name a path that exists and set data.embedded to none",
}
_OTHER_RECIPE = "choose another recipe, such as configs/hh.yaml, or set data.embedded to none"


def check(config: DataConfig, root: Path) -> None:
    """Tell at once, before anything is started, what `resolve` would refuse without reading the data.

    Raises:
        DataError: there is no such data, or data/ and data.dvc are not as they must be.
    """
    if config.embedded == MADE_BY_RUNS:
        return
    path = root / config.path
    if _is_tracked(path, root):
        recover(root)
        read_dvc_file(root)
    elif path.exists() and not path.is_dir():
        check_regular(path)
    elif not path.exists():
        raise DataError(f"{path}: there is no such file or folder{_ADVICE[config.embedded]}")


def resolve(config: DataConfig, root: Path) -> DataSource:
    """Find the data of a run, bring it here if need be, and check that it is what it should be.

    Embedded data that is missing as data/ is generated, other data that is missing there is checked out of DVC's cache
    or pulled. Nothing is made anywhere else; the prompts of stories lie in no folder, and only their hash is told.

    Args:
        config: names the data; a relative path is taken from the project's root.
        root: the project's root, with data.dvc.

    Raises:
        DataError: the data is missing, differs from data.dvc, or is not the embedded data where that is asked for.
    """
    if config.embedded == MADE_BY_RUNS:
        with generated(MADE_BY_RUNS) as folder:
            return DataSource(path=MADE_BY_RUNS, md5=dvc_md5(folder), tracked=False, embedded=MADE_BY_RUNS)
    path = root / config.path
    check(config, root)
    if _is_tracked(path, root):
        return _tracked(config, root)
    if config.embedded is not None:
        _check_embedded_elsewhere(path)
    md5 = dvc_md5(path)
    tracked = path.resolve() == version_folder(md5, root).resolve()
    return DataSource(path=config.path, md5=md5, tracked=tracked, embedded=config.embedded)


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
    return EMBEDDED if _is_marked(dvc_file, EMBEDDED) else None


def _tracked(config: DataConfig, root: Path) -> DataSource:
    dvc_file = read_dvc_file(root)
    if config.embedded is not None and not _is_marked(dvc_file, config.embedded):
        raise DataError(
            f"data.dvc tracks data that is not the embedded set {config.embedded}, which this recipe is made for; "
            f"{_OTHER_RECIPE}"
        )
    folder, md5 = root / TRACKED, md5_in(dvc_file)
    if not folder.exists():
        with writing(root):
            if not folder.exists():  # another run may have been faster
                _generate(folder, md5) if config.embedded is not None else check_out(md5, folder, root)
    actual = dvc_md5(folder)
    dirty = differs(root, md5, actual)
    if dirty:
        _check_dirty_data(config, folder)
    return DataSource(
        path=config.path, md5=actual if dirty else md5, tracked=not dirty, dirty=dirty, embedded=config.embedded
    )


def differs(root: Path, md5: str, actual: str | None = None) -> bool:
    """Whether data/ is another version than the one with this md5.

    Args:
        root: the project's root.
        md5: of the version.
        actual: `dvc_md5` of data/, where it is known.
    """
    # A .dvcignore changes DVC's hash, so DVC has the last word on a difference.
    return (actual or dvc_md5(root / TRACKED)) != md5 and _hash_by_dvc(root) != md5


def _is_marked(dvc_file: Mapping[str, Any], embedded: str) -> bool:
    meta = dvc_file.get("meta") or {}
    return bool(meta.get("generator") == embedded and meta.get("md5") == md5_in(dvc_file))


def _generate(folder: Path, md5: str) -> None:
    with staged(folder) as filled:
        generate(EMBEDDED, filled)
        made = dvc_md5(filled)
        if made != md5:
            raise DataError(
                f"the generator of the embedded data makes {made}, and data.dvc says {md5}; "
                "check out the commit that data.dvc was written at, or record the new data with `rlhf data import`"
            )
        try:
            install(filled, folder)
        except OSError:
            # Another process was faster; what it made is checked by the caller.
            if not folder.is_dir():
                raise


def _check_dirty_data(config: DataConfig, folder: Path) -> None:
    if not config.allow_dirty_data:
        raise DataError(
            "data/ has changed since `dvc add`: it differs from data.dvc; "
            "record it (`dvc add data`, then commit data.dvc), "
            "bring the recorded data back (`dvc checkout data --force`, or delete data/ if it is the embedded set), "
            "or run with --allow-dirty-data"
        )
    if config.embedded is None:
        return
    with generated(EMBEDDED) as original:
        datasheet = folder / DATASHEET
        if not datasheet.is_file() or datasheet.read_bytes() != (original / DATASHEET).read_bytes():
            raise DataError(f"{folder}: this is not the embedded set {config.embedded}; {_OTHER_RECIPE}")


def _check_embedded_elsewhere(path: Path) -> None:
    """Check that a person's own copy is the embedded data. Nothing is generated there: a path may be mistyped."""
    with generated(EMBEDDED) as original:
        if dvc_md5(path) != dvc_md5(original):
            raise DataError(f"{path}: this is not the embedded set {EMBEDDED}; {_OTHER_RECIPE}")


def _hash_by_dvc(root: Path) -> str | None:
    with opened(root, "DVC cannot read the folder") as repo:
        (out,) = repo.find_outs_by_path(str(root / TRACKED))
        value: str | None = out.get_hash().value
    return value
